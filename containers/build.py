"""Build the images, and print what came of it: name, size, digest.

python -m containers.build data trainer evaluator [--base-image …] [--torch-index …] [--registry …]

Each image gets two tags: the source revision, and `local`, which `run --docker` takes. Its label matta.code-digest
holds the digest of the code in it, so that an image older than the checkout is found out.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from components.common.images import CODE_DIGEST_LABEL, LOCAL_TAG, code_digest, image_name
from components.common.parser import CommandParser

ROOT = Path(__file__).parent.parent
TARGETS = ("data", "trainer", "evaluator", "data-worker")


def build_client() -> str:
    """A docker client that can ask BuildKit for a build: one with the buildx plugin, or one from before 23.0.

    Raises: SystemExit where none is to be found.
    """
    for client in _clients():
        has_buildx = subprocess.run([client, "buildx", "version"], capture_output=True).returncode == 0
        version = subprocess.run([client, "--version"], capture_output=True, text=True).stdout
        major = re.search(r"version (\d+)\.", version)
        if has_buildx or (major and int(major[1]) < 23):
            return client
    raise SystemExit("error: no docker client that builds with BuildKit: install docker and its buildx plugin")


def _clients() -> Iterator[str]:
    for folder in os.get_exec_path():
        if client := shutil.which("docker", path=folder):
            yield client


def revision() -> str:
    """The commit, with -dirty where files differ from it; "unknown" outside of a git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else "unknown"


def source_url() -> str:
    """Where the checkout came from, without a name or password in it; "unknown" where git does not know."""
    result = subprocess.run(["git", "-C", str(ROOT), "remote", "get-url", "origin"], capture_output=True, text=True)
    return re.sub(r"//[^/@]*@", "//", result.stdout.strip()) or "unknown"


def build(
    client: str, target: str, tags: list[str], arguments: dict[str, str], labels: dict[str, str], network: str
) -> None:
    """Raises: SystemExit with docker's own status where the build fails; docker has said why."""
    command = [client, "build", "--file", str(ROOT / "containers" / "Dockerfile"), "--target", target]
    command += ["--network", network]
    for tag in tags:
        command += ["--tag", tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, value in labels.items():
        command += ["--label", f"{name}={value}"]
    result = subprocess.run([*command, str(ROOT)], env=os.environ | {"DOCKER_BUILDKIT": "1"})
    if result.returncode != 0:
        raise SystemExit(result.returncode)


def describe(client: str, name: str) -> str:
    """Name, size and digest: the image's id, until a registry gives it one (`docker push` prints that)."""
    template = "{{.Size}} {{.Id}}"
    result = subprocess.run([client, "inspect", "--format", template, name], capture_output=True, text=True, check=True)
    size, digest = result.stdout.split()
    return f"{name:<40} {int(size) / 1e9:5.2f} GB  {digest}"


def main() -> None:
    parser = CommandParser(
        prog="python -m containers.build", description=__doc__.splitlines()[0], may_be_empty=("--torch-index",)
    )
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--base-image", help="an image with Python 3.11 (default: the Dockerfile's)")
    parser.add_argument("--beam-image", help="of data-worker: where Beam's entrypoint comes from")
    parser.add_argument(
        "--torch-index",
        help="a package index with torch's wheels; '' for what pip's own settings find (default: the CPU's)",
    )
    parser.add_argument("--variant", default="", help="appended to the tags, for instance -gpu")
    parser.add_argument("--registry", default="", help="put before the names, for instance europe-docker.pkg.dev/me/ai")
    parser.add_argument("--revision", default=revision(), help="the tag and label (default: git's)")
    parser.add_argument("--network", default="host", help="of the build's commands: pip needs an index (default: host)")
    args = parser.parse_args()
    client = build_client()
    given = {"BASE_IMAGE": args.base_image, "BEAM_IMAGE": args.beam_image, "TORCH_INDEX": args.torch_index}
    arguments = {name: value for name, value in given.items() if value is not None}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = {
        "org.opencontainers.image.source": source_url(),
        "org.opencontainers.image.revision": args.revision,
        "org.opencontainers.image.version": project["version"],
        CODE_DIGEST_LABEL: code_digest(),
    }
    lines = []
    for target in args.targets:
        name = f"{args.registry}/{image_name(target)}" if args.registry else image_name(target)
        tags = [f"{name}:{args.revision}{args.variant}", f"{name}:{LOCAL_TAG}{args.variant}"]
        title = {"org.opencontainers.image.title": f"matta-{target}"}
        build(client, target, tags, arguments, labels | title, args.network)
        lines.append(describe(client, tags[0]))
    print(f"built with {client}; also tagged {LOCAL_TAG}{args.variant}; label {CODE_DIGEST_LABEL} {code_digest()[:16]}")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
