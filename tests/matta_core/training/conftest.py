import pytest
from training_support import TEACHER

from components.score_teacher.step import score_teacher
from components.train.step import train_teacher
from matta_core.recipe import ScoreTeacherConfig


@pytest.fixture
def scores(dataset, tmp_path):
    teacher = train_teacher(TEACHER, dataset.path, output=tmp_path / "teacher")
    return score_teacher(ScoreTeacherConfig(top_k=8), dataset.path, teacher.path, output=tmp_path / "scores")
