"""Which rows of a step train which size, and the gradient that comes of it."""

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from passes_support import INPUT_IDS, LOSS, TOKENS, assert_same, batch, joint_backward, students_of, tiny_ta
from support import granularity, tiny_gpt2
from training_support import CONFIG

from matta_core.errors import UserError
from matta_core.nesting.live import live_student
from matta_core.nesting.size import resolve
from matta_core.recipe import DrawnConfig
from matta_core.training.drawn import DrawnStudents
from matta_core.training.passes import PassSettings
from matta_core.training.shares import rows_in_batch, rows_of_sizes

NESTED = dataclasses.replace(CONFIG, nest_from=0.0)  # sizes s, m, l, xl; batches of 8


def lengths(**settings):
    rows = rows_of_sizes(dataclasses.replace(NESTED, **settings), step=0)
    return {name: len(mine) for name, mine in rows.items()}


def test_presets_give_each_size_its_share():
    assert lengths(shares="split") == {"s": 4, "m": 2, "l": 2, "xl": 8}
    assert lengths(shares="sandwich") == {"s": 8, "m": 4, "l": 4, "xl": 8}
    assert lengths(shares="all") == {"s": 8, "m": 8, "l": 8, "xl": 8}
    assert lengths(shares={"xl": 0.5, "m": 0.25}) == {"m": 2, "xl": 4}


def test_students_that_split_the_batch_meet_every_row_once_and_each_row_meets_every_student():
    seen = Counter()
    for step in range(8):
        rows = rows_of_sizes(NESTED, step)
        assert sorted(row for name in "sml" for row in rows[name]) == list(range(8))
        seen.update((name, row) for name in "sml" for row in rows[name])
    assert all(seen[name, row] == {"s": 4, "m": 2, "l": 2}[name] for name in "sml" for row in range(8))


def test_the_ta_is_alone_until_students_are_nested():
    config = dataclasses.replace(CONFIG, steps=40, nest_from=0.3)
    assert list(rows_of_sizes(config, 11)) == ["xl"]
    assert list(rows_of_sizes(config, 12)) == ["s", "m", "l", "xl"]
    assert dataclasses.replace(config, nest_from=None).first_nested_step == 12
    assert dataclasses.replace(config, nest_from=None, start_from="gpt2").first_nested_step == 0


shares = st.fixed_dictionaries({name: st.integers(0, 4) for name in ("s", "m")} | {"xl": st.integers(1, 4)})


@given(shares, st.integers(0, 5), st.integers(1, 3), st.sampled_from([1, 7, 15, 1000]), st.booleans())
def test_any_shares_passes_and_chunks_have_the_gradient_of_the_joint_loss(shares, step, micro_batch, chunk, together):
    """Also where some sequences train no TA, no student, or nothing at all."""
    config = dataclasses.replace(
        NESTED, sizes={"s": 8, "m": 16, "xl": 32}, batch_size=4, shares={name: n / 4 for name, n in shares.items()}
    )
    rows = rows_of_sizes(config, step)
    numbers = {name: len(mine) * TOKENS // 4 for name, mine in rows.items()}
    of_students = sum(numbers.values()) - numbers["xl"]

    def gradients(settings, *parts):
        ta = tiny_ta()
        students = {name: student for name, student in students_of(ta).items() if name in rows}
        sums = Counter()
        for positions in parts:
            found = joint_backward(
                ta,
                students,
                {name: values[positions.start : positions.stop] for name, values in ITEM.items()},
                LOSS,
                step=0,
                num_targets=numbers["xl"],
                settings=settings,
                ta_name="xl",
                rows=rows_in_batch(rows, torch.tensor(positions).numpy()),
                num_student_targets=of_students,
            )
            sums.update({name: total.item() for name, total in found.items()})
        return {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in ta.named_parameters()}, sums

    parts = [range(start, min(start + micro_batch, 4)) for start in range(0, 4, micro_batch)]
    ours, sums = gradients(PassSettings(chunk, together=together), *parts)
    theirs, expected = gradients_of_one_size_at_a_time(rows, numbers["xl"], of_students)
    assert_same(ours, theirs, rtol=1e-4, atol=2e-7)
    assert dict(sums) == pytest.approx(dict(expected), rel=1e-4)


def gradients_of_one_size_at_a_time(rows, num_targets, num_student_targets):
    """The same from whole batches of only the rows that a size trains on, added up."""
    ta, expected = tiny_ta(), Counter()
    students = students_of(ta)
    sums = joint_backward(ta, {}, part(rows["xl"]), LOSS, step=0, num_targets=num_targets, settings=PassSettings())
    expected.update({name.replace("/ta", "/xl"): total.item() for name, total in sums.items()})
    for name in rows.keys() - {"xl"}:
        found = joint_backward(
            ta,
            {name: students[name]},
            part(rows[name]),
            dataclasses.replace(LOSS, ta_weight=0.0),
            step=0,
            num_targets=1,
            num_student_targets=num_student_targets,
            settings=PassSettings(),
        )
        expected.update({term: total.item() for term, total in found.items() if not term.endswith("/ta")})
    return {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in ta.named_parameters()}, expected


ITEM = {name: values.reshape(len(INPUT_IDS), -1) for name, values in batch().items()}  # as a dataset holds them


def part(rows):
    return {name: values[rows] for name, values in ITEM.items()}


def test_a_student_is_not_taught_where_nothing_is_learnt_from_the_ta():
    """Sequences on which the TA does not train cost it no pass where no term compares students with it."""
    ta = tiny_gpt2(num_hidden_layers=3).train()
    calls = []
    ta.transformer.register_forward_hook(lambda *_: calls.append("ta"))
    students = {"s": live_student(ta, granularity(ta, intermediate_size=8))}
    alone = dataclasses.replace(LOSS, distillation_weight=0.0, hidden_state_weight=0.0)
    for loss, expected in ((alone, 1), (LOSS, 2)):
        calls.clear()
        joint_backward(
            ta, students, ITEM, loss, step=0, num_targets=TOKENS // 2, settings=PassSettings(),
            rows={"ta": [0, 1], "s": [1, 2, 3]},
        )  # fmt: skip
        assert len(calls) == expected


def test_drawn_widths_lie_between_student_and_ta_and_depend_on_seed_and_step_alone():
    config = dataclasses.replace(NESTED, drawn=DrawnConfig(number=2, share=0.25))
    ta = tiny_gpt2(intermediate_size=160, num_hidden_layers=3).config
    config = dataclasses.replace(config, sizes={"s": 8, "m": 16, "l": 24, "xl": 160})
    sizes = resolve(ta, config.sizes)
    drawn = DrawnStudents(config, ta, sizes, lambda size: size)
    seen = [drawn.widths(step) for step in range(200)]
    assert all(list(each) == ["drawn.0", "drawn.1"] for each in seen)
    widths = {width for each in seen for by_layer in each.values() for width in by_layer}
    assert min(widths) > 8
    assert max(widths) < 160
    assert len(widths) == 15
    assert all(width % 8 == 0 for width in widths)
    assert all(len(set(by_layer)) == 1 and len(by_layer) == 3 for each in seen for by_layer in each.values())
    assert seen == [DrawnStudents(config, ta, sizes, lambda size: size).widths(step) for step in range(200)]
    by_layer = dataclasses.replace(config, drawn=DrawnConfig(number=1, by_layer=True))
    assert any(len(set(DrawnStudents(by_layer, ta, sizes, id).widths(step)["drawn.0"])) > 1 for step in range(9))
    assert lengths(drawn=DrawnConfig(number=2)) == {"s": 4, "m": 2, "l": 2, "drawn.0": 2, "drawn.1": 2, "xl": 8}


def test_nothing_is_drawn_where_there_is_no_width_between():
    config = dataclasses.replace(NESTED, sizes={"s": 24, "xl": 32}, drawn=DrawnConfig(number=1))
    with pytest.raises(
        UserError, match=r"train.drawn.number must be 0, got 1: no intermediate_size in steps of 8 lies between 24"
    ):
        DrawnStudents(config, tiny_ta().config, resolve(tiny_ta().config, config.sizes), lambda size: size)
