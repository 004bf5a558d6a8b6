import pytest
from gate_support import Evaluation


@pytest.fixture
def evaluation(tmp_path) -> Evaluation:
    """A report and its students, all good, to be changed before they are written."""
    return Evaluation(tmp_path)
