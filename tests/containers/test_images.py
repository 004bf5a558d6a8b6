"""What each image is: who it runs as, what is in it, what is not, and how large it is."""

import importlib
import json
from pathlib import Path

import docker
import pytest
from kfp.dsl.python_component import PythonComponent
from packaging.utils import canonicalize_name

from components.common.images import CODE_DIGEST_LABEL, DATA_IMAGE, EVALUATOR_IMAGE, TRAINER_IMAGE, code_digest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
# For torch's CPU wheels, base image included. The same table is in containers/README.md.
SIZE_BUDGET_BYTES = {DATA_IMAGE: 1.3e9, TRAINER_IMAGE: 2.5e9, EVALUATOR_IMAGE: 2.5e9}
FOREIGN_USER = "61234:0"  # as OpenShift gives one: no entry in /etc/passwd, group 0

IMPORT_EVERY_MODULE = """
import importlib, pkgutil, sys
for step in sys.argv[1:]:
    package = importlib.import_module(f"components.{step}")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            importlib.import_module(f"components.{step}.{module.name}")
import kfp.dsl.executor_main
print("imported", *sys.argv[1:])
"""


@pytest.fixture(params=list(SIZE_BUDGET_BYTES), ids=["data", "trainer", "evaluator"])
def image(request, images):
    return images[request.param]


def steps_of(image):
    """The folders of components/ whose wrappers name the image."""
    steps = []
    for file in sorted((ROOT / "components").glob("*/component.py")):
        module = importlib.import_module(f"components.{file.parent.name}.component")
        wrappers = [item for item in vars(module).values() if isinstance(item, PythonComponent)]
        assert wrappers, file
        if any(item.component_spec.implementation.container.image in image.tags for item in wrappers):
            steps.append(file.parent.name)
    return steps


def run(engine, image, command, **options):
    """Standard output of a command in a container; fails with its standard error."""
    try:
        output = engine.containers.run(image.id, command, remove=True, network_mode="none", **options)
    except docker.errors.ContainerError as error:
        pytest.fail(f"{command} ended with status {error.exit_status}: {error.stderr.decode()}")
    return output.decode()


def test_it_has_no_entrypoint_and_an_unprivileged_user(image):
    assert not image.attrs["Config"]["Entrypoint"]
    assert image.attrs["Config"]["User"] == "1000:1000"


def test_its_labels_say_from_what_it_was_built(image):
    names = ("source", "revision", "version", "title")
    labels = {name: image.labels[f"org.opencontainers.image.{name}"] for name in names}
    assert all(labels.values())
    assert labels["title"] == image.tags[0].partition(":")[0].replace("/", "-")
    assert labels["revision"] != "unknown"
    assert f"{image.tags[0].partition(':')[0]}:{labels['revision']}" in image.tags
    assert image.labels[CODE_DIGEST_LABEL] == code_digest()


def test_it_is_within_its_size_budget(image):
    name = next(tag for tag in image.tags if tag in SIZE_BUDGET_BYTES)
    assert image.attrs["Size"] <= SIZE_BUDGET_BYTES[name]


def test_nothing_secret_is_in_its_settings_or_its_history(image):
    told = json.dumps(image.attrs["Config"]).lower() + json.dumps(image.history()).lower()
    for word in ("token", "password", "secret", "credential", "api_key", "private"):
        assert word not in told.replace("tokenizers_parallelism", "")


def test_histories_caches_and_what_builds_left_are_not_in_it(engine, image):
    script = (
        "find / -xdev \\( -name '.*_history' -o -name '.netrc' -o -name '.git' -o -name 'pip.conf' "
        "-o -name '.python_history' \\) -print; "
        "find /root /home /tmp /opt/matta/src -xdev \\( -name .cache -o -name '*.log' \\) -print; "
        "find /build /lists /root/.cache /var/cache/pip -print 2>/dev/null; find /tmp -mindepth 1"
    )
    assert run(engine, image, ["sh", "-c", script + "; true"], user="0:0").strip() == ""


def test_it_has_no_compiler_and_no_build_tools(engine, image):
    script = "for tool in cc gcc g++ clang ld make cmake git curl wget; do command -v $tool; done; true"
    assert run(engine, image, ["sh", "-c", script]).strip() == ""


def test_its_user_can_write_nothing_of_the_code_and_packages(engine, image):
    script = "find /opt/matta -writable -not -type l | head -n 3"
    for user in ("1000:1000", FOREIGN_USER):
        assert run(engine, image, ["sh", "-c", script], user=user).strip() == ""


def test_its_packages_fit_one_another(engine, image):
    assert "No broken requirements found" in run(engine, image, ["python", "-m", "pip", "check"])


def test_it_has_the_packages_that_the_constraints_pin(engine, image):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    installed = json.loads(run(engine, image, ["python", "-m", "pip", "list", "--format", "json"]))
    unpinned = set()
    for package in installed:
        name = canonicalize_name(package["name"])
        if name == "pip":
            continue
        if name not in pins:
            unpinned.add(name)
        else:
            assert package["version"].partition("+")[0] == pins[name], name
    assert unpinned == set()


def test_its_steps_can_be_imported_with_a_read_only_root_under_a_foreign_user(engine, image):
    steps = steps_of(image)
    assert steps
    output = run(
        engine,
        image,
        ["python", "-c", IMPORT_EVERY_MODULE, *steps],
        read_only=True,
        tmpfs={"/tmp": ""},
        user=FOREIGN_USER,
    )
    assert output.splitlines()[-1] == " ".join(["imported", *steps])


def test_its_steps_explain_themselves(engine, image):
    further = {"train": ["train.teacher"], "evaluate": ["evaluate.plan", "evaluate.merge"]}
    for step in steps_of(image):
        for command in (step, *further.get(step, ())):
            output = run(
                engine, image, ["python", "-m", f"components.{command}", "--help"], read_only=True, tmpfs={"/tmp": ""}
            )
            assert f"usage: python -m components.{command}" in output


def test_beam_is_only_in_data_and_torch_only_where_models_are(engine, images):
    found = "from importlib.util import find_spec; print(*(find_spec(m) is not None for m in ('apache_beam', 'torch')))"
    for name, has_beam in ((DATA_IMAGE, True), (TRAINER_IMAGE, False), (EVALUATOR_IMAGE, False)):
        assert run(engine, images[name], ["python", "-c", found]).split() == [str(has_beam), str(not has_beam)]
