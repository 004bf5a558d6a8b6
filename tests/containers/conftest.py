"""The engine and the images, or the reason why a test cannot be run."""

import os

import docker
import pytest

from components.common.images import CODE_DIGEST_LABEL, DATA_IMAGE, EVALUATOR_IMAGE, TRAINER_IMAGE, code_digest

IMAGES = (DATA_IMAGE, TRAINER_IMAGE, EVALUATOR_IMAGE)


def _missing(reason):
    """CI has built the images and sets MATTA_DOCKER=required: there a skip would hide a failure."""
    if os.environ.get("MATTA_DOCKER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine():
    """A client of the docker engine."""
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        _missing(f"no docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(engine):
    """The three images by name, built of the code that is tested."""
    result = {}
    for name in IMAGES:
        try:
            result[name] = engine.images.get(name)
        except docker.errors.ImageNotFound:
            _missing(f"{name} is not built: make images")
        if result[name].labels.get(CODE_DIGEST_LABEL) != code_digest():
            _missing(f"{name} holds other code than this checkout: make images")
    return result
