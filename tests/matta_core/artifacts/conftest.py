import pytest

from matta_core.artifacts import finish_artifact


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "thing"
    (path / "deep").mkdir(parents=True)
    (path / "a.txt").write_text("one")
    (path / "deep" / "b.txt").write_text("two")
    return finish_artifact(path, "Thing", key="k", inputs={"from": "d" * 64}, metadata={"rows": 3}, seconds=1.5)
