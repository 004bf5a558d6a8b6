"""The images that the steps run in, as `make images` names them on this machine.

A cluster's profile names them by digest instead. Under kfp's SubprocessRunner they are names only.
"""

from pathlib import Path

import components
import matta_core
from components.common.source import source_digest

LOCAL_TAG = "local"  # what was built last on this machine; each image is tagged with its source revision, too
CODE_DIGEST_LABEL = "matta.code-digest"


def image_name(target: str) -> str:
    """The repository of one of containers/Dockerfile's targets."""
    return f"matta/{target}"


def code_digest() -> str:
    """The digest of the code that the steps run. An image with another digest in its label holds another version."""
    return source_digest(Path(matta_core.__file__).parent, Path(components.__file__).parent)


DATA_IMAGE = f"{image_name('data')}:{LOCAL_TAG}"
TRAINER_IMAGE = f"{image_name('trainer')}:{LOCAL_TAG}"
EVALUATOR_IMAGE = f"{image_name('evaluator')}:{LOCAL_TAG}"
