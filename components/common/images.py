"""The images that the steps run in, as `make images` names them on this machine.

A cluster's profile names them by digest instead. kfp's SubprocessRunner uses no image.
"""

from pathlib import Path

import components
import matta_core
from components.common.source import source_digest

LOCAL_TAG = "local"  # the last build on this machine; each image is also tagged with its source revision
CODE_DIGEST_LABEL = "matta.code-digest"


def image_name(target: str) -> str:
    """The repository of a target in containers/Dockerfile."""
    return f"matta/{target}"


def code_digest() -> str:
    """The digest of the code that the steps run. An image with another digest in its label holds another version."""
    return source_digest(Path(matta_core.__file__).parent, Path(components.__file__).parent)


DATA_IMAGE = f"{image_name('data')}:{LOCAL_TAG}"
TRAINER_IMAGE = f"{image_name('trainer')}:{LOCAL_TAG}"
EVALUATOR_IMAGE = f"{image_name('evaluator')}:{LOCAL_TAG}"
