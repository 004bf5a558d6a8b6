import pytest
import torch
from support import make_dataset

from matta_core.artifacts import Artifact

torch.set_num_threads(1)  # tiny models: a second thread only waits


@pytest.fixture
def dataset(tmp_path) -> Artifact:
    """A small TokenizedDataset."""
    return make_dataset(tmp_path / "dataset")
