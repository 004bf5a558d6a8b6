"""A tiny TA, its students and a batch with a Teacher's scores, for tests of passes and their gradients."""

from functools import partial

import torch
from support import granularity, tiny_gpt2

from matta_core.nesting.live import live_student
from matta_core.objectives import OBJECTIVE
from matta_core.recipe import LossConfig, ScoreTeacherConfig
from matta_core.training import joint, passes
from matta_core.training.passes import PassSettings, teacher_scores

LOSS = LossConfig(
    ta_weight=0.7, cross_entropy_weight=0.4, teacher_weight=0.6, hidden_state_weight=0.3, loss_temperature=2.0
)
VOCABULARY = 50
INPUT_IDS = torch.randint(0, VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(0))
TOKENS = 4 * 15
WHOLE = PassSettings()


joint_backward = partial(joint.joint_backward, OBJECTIVE)


def top_k_scores(teacher, input_ids, top_k):
    config = ScoreTeacherConfig(top_k=top_k, tail_samples=0)
    return teacher_scores(OBJECTIVE, teacher, {"input_ids": input_ids}, config, VOCABULARY, WHOLE)


def cross_entropy_sum(model, input_ids, settings):
    return passes.error_sum(OBJECTIVE, model, {"input_ids": input_ids}, settings)


def batch(rows=slice(None), top_k=10):
    teacher = tiny_gpt2(64, seed=1).eval()
    return {"input_ids": INPUT_IDS[rows], **top_k_scores(teacher, INPUT_IDS[rows], top_k)}


def tiny_ta():
    return tiny_gpt2(num_hidden_layers=3).train()


def students_of(ta):
    """One narrower, one narrower and shallower."""
    sizes = {"s": {"intermediate_size": 8}, "m": {"intermediate_size": 16, "num_hidden_layers": 2}}
    return {name: live_student(ta, granularity(ta, **size)) for name, size in sizes.items()}


def assert_same(ours, theirs, **tolerance):
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], **(tolerance or {"rtol": 1e-4, "atol": 1e-7})), name
