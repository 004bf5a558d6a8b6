"""Beam's worker for Dataflow, built on a stand-in for Beam's image: only its entrypoint is taken from there."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from components.common.images import DATA_IMAGE
from containers.build import build, build_client

pytestmark = [pytest.mark.docker, pytest.mark.slow]

# Beam's own is a binary that starts `python -m apache_beam.runners.worker.sdk_worker_main`.
BOOT = """#!/bin/sh
echo "boot $*"
exec python -c "$CODE"
"""
CODE = """
import json
import apache_beam
from apache_beam.io.gcp.gcsfilesystem import GCSFileSystem
from components.prepare_data.pipeline import ReadDocuments, TokenizeShard
print(json.dumps({"beam": apache_beam.__version__, "schemes": GCSFileSystem.scheme()}))
"""


@pytest.fixture(scope="module")
def worker(images, tmp_path_factory):
    """Tag of the image. The base is the data image's own, found as its first layers."""
    client = build_client()
    folder = tmp_path_factory.mktemp("beam")
    (folder / "boot").write_text(BOOT)
    (folder / "boot").chmod(0o755)
    (folder / "Dockerfile").write_text(f"FROM {DATA_IMAGE}\nCOPY boot /opt/apache/beam/boot\n")
    stand_in, tag = "matta-local/beam:stand-in", "matta/data-worker:test"
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    subprocess.run([client, "build", "--quiet", "--tag", stand_in, str(folder)], check=True, env=environment)
    base = images[DATA_IMAGE].labels["org.opencontainers.image.base.name"]
    build(client, "data-worker", [tag], {"BEAM_IMAGE": stand_in, "BASE_IMAGE": base}, {}, "host")
    return tag


def test_it_starts_beams_entrypoint_with_the_packages_of_the_step_and_google_clouds(engine, worker, images):
    output = engine.containers.run(worker, ["--id=1", "--logging_endpoint=x"], environment={"CODE": CODE}, remove=True)
    started, told = output.decode().splitlines()[-2:]
    assert started == "boot --id=1 --logging_endpoint=x"
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert f"apache-beam=={json.loads(told)['beam']}" in pins
    assert json.loads(told)["schemes"] == "gs"


def test_its_packages_fit_one_another(engine, worker):
    output = engine.containers.run(worker, ["-m", "pip", "check"], entrypoint=["python"], remove=True)
    assert b"No broken requirements found" in output


def test_beams_workers_use_the_images_own_environment(engine, worker):
    """Else Beam's entrypoint makes a new one for each worker, without what the step imports."""
    assert "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in engine.images.get(worker).attrs["Config"]["Env"]
