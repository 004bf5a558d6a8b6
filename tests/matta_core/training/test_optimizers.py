"""Optimizers: blocks are the model's own memory, a state is resumed bit for bit, and each of the four learns."""

import dataclasses
import json

import pytest
import torch
from pytorch_optimizer.optimizer.shampoo import ScalableShampoo
from safetensors.torch import load_file
from support import TRAINING, tiny_gpt2
from torch import nn
from transformers import GPT2Config

from components.train.step import train
from matta_core.errors import UserError
from matta_core.recipe import OptimizerConfig, TrainConfig
from matta_core.training.optimizers import block_indices, hidden_matrices, make_optimizer
from matta_core.training.state import DamagedStateError, load_state, read_state, save_state

NAMES = ("adamw", "shampoo", "soap", "muon")
# The sizes 8 and 32 of neurons, GPT-2's q, k and v, and its heads of 8. Conv1D: weights are (in, out).
CUTS = {
    f"transformer.h.{layer}.{name}": cuts
    for layer in range(2)
    for name, cuts in {
        "mlp.c_fc.weight": {1: (8,)},
        "mlp.c_proj.weight": {0: (8,)},
        "attn.c_attn.weight": {1: (8, 16, 24, 32, 40)},
        "attn.c_proj.weight": {0: (8,)},
    }.items()
}


def training(name="adamw", **settings):
    return dataclasses.replace(TRAINING, optimizer=OptimizerConfig(name=name, **settings))


def every(name, steps):
    return {"preconditioner_every_steps": steps} if name in ("shampoo", "soap") else {}


def backward(model, step):
    """The gradients of a batch that is a function of the step."""
    generator = torch.Generator().manual_seed(step)
    input_ids = torch.randint(0, model.config.vocab_size, (4, 16), generator=generator)
    model(input_ids=input_ids, labels=input_ids).loss.backward()


def run(model, optimizer, steps):
    for step in steps:
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()


def state_dict(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_adamw_is_torchs_adamw_bit_for_bit():
    ours, theirs = tiny_gpt2(), tiny_gpt2()
    parameters = list(theirs.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    run(ours, make_optimizer(ours, training(), CUTS), range(5))
    run(theirs, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=True), range(5))
    assert_equal_bits(state_dict(ours), state_dict(theirs))


def test_block_indices_cover_a_tensor_once_and_cut_where_told():
    assert block_indices((4,), {}) == [(slice(0, 4),)]
    assert block_indices((4, 6), {1: (2,)}) == [
        (slice(0, 4), slice(0, 2)),
        (slice(0, 4), slice(2, 6)),
    ]
    assert block_indices((10,), {0: (7,)}, longest=4) == [(slice(0, 3),), (slice(3, 7),), (slice(7, 10),)]
    counts = torch.zeros(30, 17)
    for index in block_indices(counts.shape, {0: (8, 16), 1: (5,)}, longest=6):
        counts[index] += 1
        assert max(counts[index].shape) <= 6
    assert torch.equal(counts, torch.ones(30, 17))


def test_hidden_matrices_leave_out_embeddings_and_the_head_tied_or_not():
    for tied in (True, False):
        names = hidden_matrices(tiny_gpt2(tie_word_embeddings=tied))
        assert len(names) == 8
        assert all(".attn.c_" in name or ".mlp.c_" in name for name in names)


class Separate(nn.Module):
    """A model whose hidden matrices are the blocks of another's."""

    def __init__(self, blocks):
        super().__init__()
        self.config = GPT2Config()
        self.transformer = nn.Module()
        self.transformer.h = self.blocks = nn.ParameterList(blocks)
        self.head = nn.Linear(1, 1)


@pytest.mark.parametrize("name", NAMES[1:])
def test_updating_blocks_equals_updating_separate_matrices(name):
    config = training(name, **every(name, 2))
    model = tiny_gpt2()
    matrices = hidden_matrices(model)
    blocks = [(matrix, index) for key, matrix in matrices.items() for index in block_indices(matrix.shape, CUTS[key])]
    before = [matrix.detach()[index].clone() for matrix, index in blocks]
    separate = Separate([block.clone() for block in before])
    ours, theirs = make_optimizer(model, config, CUTS), make_optimizer(separate, config)
    for step in range(6):
        backward(model, step)
        for (matrix, index), block in zip(blocks, separate.blocks, strict=True):
            block.grad = matrix.grad[index].clone()
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    for (matrix, index), block, old in zip(blocks, separate.blocks, before, strict=True):
        # A block has gaps between its rows, a matrix of its own has none: products may add up in another order.
        torch.testing.assert_close(matrix.detach()[index], block.detach(), rtol=1e-4, atol=1e-5)
        assert (block.detach() - old).abs().max() > 1e-2


def test_a_preconditioner_of_one_size_knows_nothing_of_another():
    """The gradient of the large size's neurons, ten times as large, leaves the small size's update as it is."""
    updates = []
    for factor in (1.0, 10.0):
        model = tiny_gpt2()
        optimizer = make_optimizer(model, training("shampoo", **every("shampoo", 1)), CUTS)
        weight = model.transformer.h[0].mlp.c_fc.weight
        before = weight.detach().clone()
        backward(model, 0)
        weight.grad[:, 8:] *= factor
        optimizer.step()
        updates.append(weight.detach() - before)
    assert torch.equal(updates[0][:, :8], updates[1][:, :8])
    assert updates[0][:, :8].abs().max() > 0


def test_longer_sides_than_max_block_size_are_cut_for_shampoo_and_soap_only():
    for name, longest in (("shampoo", 10), ("soap", 10), ("muon", 48)):
        settings = {"max_block_size": 10} if name != "muon" else {}
        groups = make_optimizer(tiny_gpt2(), training(name, **settings)).param_groups
        assert max(max(p.shape) for p in groups[-1]["params"]) == longest


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_of_a_step_reaches_every_group(name):
    model = tiny_gpt2()
    optimizer = make_optimizer(model, training(name), CUTS)
    run(model, optimizer, range(2))
    before = state_dict(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    run(model, optimizer, range(2, 4))
    assert_equal_bits(state_dict(model), before)


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, every(name, steps)) for name in NAMES for steps in ((1, 2, 4) if every(name, 1) else (1,))],
)
def test_a_resumed_optimizer_goes_on_bit_for_bit(tmp_path, name, settings):
    config = training(name, **settings)
    whole = tiny_gpt2()
    run(whole, make_optimizer(whole, config, CUTS), range(6))
    first = tiny_gpt2()
    optimizer = make_optimizer(first, config, CUTS)
    run(first, optimizer, range(3))
    saved = save_state(tmp_path, 3, first, optimizer, {})
    torch.manual_seed(7)  # a new process is in another random state
    second = tiny_gpt2(seed=1)
    optimizer = make_optimizer(second, config, CUTS)
    state = read_state(saved)
    load_state(state, second, optimizer)
    assert state.step == 3
    assert_equal_bits(state_dict(second), state_dict(first))
    run(second, optimizer, range(3, 6))
    assert_equal_bits(state_dict(second), state_dict(whole))


def test_shampoo_neither_reads_nor_moves_the_random_state():
    """Two large, nearly equal eigenvalues: a power iteration from another vector ends elsewhere, and so does the ridge
    that the small ones get."""
    roots = []
    for seed in (1, 2):
        model = Separate([torch.zeros(4, 4)])
        optimizer = make_optimizer(model, training("shampoo", preconditioner_every_steps=1))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model.blocks[0].grad = torch.diag(torch.tensor([1.0, 0.9999, 1e-4, 1e-5]))
        optimizer.step()
        assert torch.equal(torch.get_rng_state(), before)
        slots = optimizer.state_slots().items()
        roots.append({key: holder[place] for key, (holder, place) in slots if "pre_conditioners" in key})
    assert len(roots[0]) > 0
    assert_equal_bits(*roots)


@pytest.mark.parametrize(
    ("saved", "settings", "cuts"),
    [("adamw", {}, {}), ("soap", {}, CUTS), ("muon", {}, CUTS), ("shampoo", {"max_block_size": 6}, CUTS)],
)
def test_a_state_of_another_optimizer_or_of_other_blocks_is_told(tmp_path, saved, settings, cuts):
    model = tiny_gpt2()
    optimizer = make_optimizer(model, training(saved, **settings), cuts)
    run(model, optimizer, range(1))
    state = read_state(save_state(tmp_path, 1, model, optimizer, {}))
    with pytest.raises(DamagedStateError, match=r"step-00000001 was written with another optimizer or other blocks"):
        load_state(state, model, make_optimizer(model, training("shampoo"), CUTS))


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_block_without_gradients_stays_finite(name):
    """As that of neurons that are never active: its statistics, halved in each step, decay to zero."""
    model = Separate([torch.ones(4, 6)])
    optimizer = make_optimizer(model, training(name, beta2=0.5, **every(name, 10)))
    for gradient in [torch.zeros(4, 6)] * 200 + [torch.full((4, 6), 1e-3)]:
        model.blocks[0].grad = gradient
        optimizer.step()
        assert model.blocks[0].isfinite().all()


def test_settings_of_another_optimizer_are_told():
    for name in ("adamw", "muon"):
        for setting in ("preconditioner_every_steps", "max_block_size"):
            with pytest.raises(
                UserError, match=rf"train\.optimizer\.{setting} is of shampoo and soap only, got 5 with"
            ):
                TrainConfig.from_dict(TRAINING.to_dict() | {"optimizer": {"name": name, setting: 5}}, where="train")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_learns_at_adamws_rate(dataset, tmp_path, name):
    config = dataclasses.replace(training(name, **every(name, 5)), steps=60, eval_every_steps=60)
    output = train(config, dataset.path, None, output=tmp_path / "run").path
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "eval/cross_entropy/s" in row]
    for size in config.sizes:
        assert rows[-1][f"eval/cross_entropy/{size}"] < 0.7 * rows[0][f"eval/cross_entropy/{size}"]


def test_a_killed_run_with_shampoo_resumes_bit_for_bit(dataset, tmp_path, monkeypatch):
    config = training("shampoo", preconditioner_every_steps=3)
    whole = train(config, dataset.path, None, output=tmp_path / "whole")
    real, steps = ScalableShampoo.step, iter(range(7))

    def dies(self, *arguments, **options):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ScalableShampoo, "step", dies)
        train(config, dataset.path, None, output=tmp_path / "killed")
    resumed = train(config, dataset.path, None, output=tmp_path / "killed")
    ours, theirs = (load_file(run.path / "ta" / "model.safetensors") for run in (resumed, whole))
    assert_equal_bits(ours, theirs)
