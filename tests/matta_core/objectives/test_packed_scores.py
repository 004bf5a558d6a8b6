"""What is packed comes back: ids as they were, log-probabilities to half a step."""

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matta_core.objectives.divergences import forward_kl, sampled_forward_kl, top_k_divergence, vocabulary_divergence
from matta_core.objectives.packed_scores import STEPS_PER_NAT, TAIL_STEPS_PER_NAT, pack, schema, unpack
from matta_core.objectives.top_k import top_k_scores
from matta_core.recipe import ScoreTeacherConfig

HALF_A_STEP = 0.5 / STEPS_PER_NAT * (1 + 1e-3)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.one_of(st.integers(1, 300), st.sampled_from([50_257, 151_665])),
    k=st.integers(1, 40),
    samples=st.integers(0, 40),
    spread=st.sampled_from([0.0, 1.0, 20.0, 2000.0]),
)
def test_scores_come_back_from_the_columns_of_the_schema(seed, vocabulary, k, samples, spread):
    config = ScoreTeacherConfig(top_k=min(k, vocabulary), tail_samples=samples)
    logits = spread * torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(seed))
    scores = top_k_scores(logits, config.top_k, vocabulary, samples).columns()
    packed = pack(scores)
    fields = schema(config, 3)
    assert list(packed) == fields.names
    for field in fields:  # every value fits the type
        column = packed[field.name].reshape(-1)
        assert pa.array(column.astype(np.int64)).cast(field.type.value_type).to_pylist() == column.tolist()
        assert len(column) == 2 * field.type.list_size
    found = unpack({name: values.reshape(2, -1) for name, values in packed.items()} | {"input_ids": np.ones((2, 4))})
    assert found.pop("input_ids").tolist() == [[1.0] * 4] * 2
    assert found.keys() == scores.keys()
    for name, values in scores.items():
        ours, theirs = found[name], values.reshape(2, -1).numpy()
        if name.endswith("ids"):
            assert np.array_equal(ours, theirs)
        elif name == "tail_mass":
            assert np.allclose(ours, theirs, rtol=2 * HALF_A_STEP, atol=2e-14)
        elif name == "tail_log_prob":
            assert np.allclose(ours, theirs.clip(-65_535 / TAIL_STEPS_PER_NAT), atol=0.6 / TAIL_STEPS_PER_NAT)
        else:  # beyond 1,023 nats a probability is 0 long since; all are made to add up to 1 again
            assert np.allclose(ours, theirs.clip(-65_535 / STEPS_PER_NAT), atol=2 * HALF_A_STEP)
    assert np.allclose(np.exp(found["top_k_log_probs"]).reshape(6, -1).sum(-1) + found["tail_mass"].reshape(6), 1.0)


def test_the_samples_stand_for_the_rest_without_bias():
    """Of 4,000 tokens: the mean estimate is the KL, where the rest as one outcome gives far less, and so is the
    gradient's mean."""
    generator = torch.Generator().manual_seed(0)
    teacher = 1.5 * torch.randn(4000, 60, generator=generator)
    student = (teacher + torch.randn(4000, 60, generator=generator)).requires_grad_()
    mask = torch.ones(4000, dtype=torch.bool)

    def value_and_mean_gradient(value):
        (gradient,) = torch.autograd.grad(value, student)
        return value.item() / 4000, gradient.mean(0)

    exact, gradient = value_and_mean_gradient(vocabulary_divergence(forward_kl, student, teacher, mask))
    scores = top_k_scores(teacher, 4, 60, 6).columns()
    sampled, sampled_gradient = value_and_mean_gradient(sampled_forward_kl(student, **scores, mask=mask))
    three = [scores[name] for name in ("top_k_ids", "top_k_log_probs", "tail_mass")]
    merged, _ = value_and_mean_gradient(top_k_divergence(forward_kl, student, *three, mask))
    assert abs(sampled - exact) < 0.01 * exact
    assert merged < 0.8 * exact
    # A token's draw changes its gradient by some tail_mass / sqrt(samples) over all ids together.
    noise = (scores["tail_mass"].square().mean() / 6 / 4000).sqrt().item()
    assert (sampled_gradient - gradient).norm() < 1.5 * noise


def test_a_draw_depends_on_the_token_alone():
    logits = torch.randn(12, 60, generator=torch.Generator().manual_seed(0))
    whole = top_k_scores(logits, 4, 60, 6).tail_ids
    parts = [top_k_scores(part, 4, 60, 6).tail_ids for part in logits.split(5)]
    assert torch.equal(whole, torch.cat(parts))
    assert len({tuple(row) for row in whole.tolist()}) == 12
