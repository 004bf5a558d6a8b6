"""The figures: ticks are round numbers, and what is drawn lies inside and is well formed."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.report.axes import PlotAxis, log_ticks, nice_ticks
from components.report.plot import DECODE, LARGE, PARAMETERS, SMALL, Point, curves_plot, pareto_front, quality_plot

BITS = {"unit": "bits per byte", "higher_is_better": False}
ACCURACY = {"unit": "accuracy", "higher_is_better": True}


@st.composite
def some_points(draw):
    values = st.floats(0.5, 9.0)
    names = st.text(
        st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=["C"]), min_size=1, max_size=9
    )
    points = []
    for _ in range(draw(st.integers(1, 12))):
        value, reach = draw(values), draw(st.none() | st.floats(0, 0.5))
        interval = None if reach is None else (value - reach, value + reach)
        role = draw(st.sampled_from(("student", "teacher", "served")))
        points.append(Point(draw(names), draw(st.integers(1, 10**12)), value, interval, role, draw(st.booleans())))
    return points


def drawn(points, task="matta_bits_per_byte", entry=BITS, cost=PARAMETERS, **options):
    return ET.fromstring(quality_plot(points, task, entry, cost, name="figure", **options))


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e9))
def test_linear_ticks_are_few_and_within_the_bounds(low, span):
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-9 * span <= tick <= low + span * (1 + 1e-9) for tick in ticks)


def test_linear_ticks_are_round():
    assert nice_ticks(1.93, 2.46) == [2.0, 2.1, 2.2, 2.3, 2.4]
    assert nice_ticks(0, 800) == [0, 200, 400, 600, 800]
    assert nice_ticks(1.1e-15, 3.2e-15) == [1.5e-15, 2e-15, 2.5e-15, 3e-15]


@given(low=st.floats(1e-3, 1e9), decades=st.floats(math.log10(4), 12), at_most=st.integers(5, 12))
def test_logarithmic_ticks_are_few_and_within_the_bounds(low, decades, at_most):
    high = low * 10**decades
    ticks = log_ticks(low, high, at_most)
    assert 1 <= len(ticks) <= at_most
    assert all(low <= tick <= high for tick in ticks)


def test_logarithmic_ticks_are_round():
    assert log_ticks(90_000, 2_100_000) == [1e5, 2e5, 5e5, 1e6, 2e6]
    assert log_ticks(0.9, 5.4) == [1, 1.5, 2, 3, 4, 5]
    assert log_ticks(1, 1e5) == [1, 10, 100, 1e3, 1e4, 1e5]


def test_an_axis_maps_its_ends_to_its_pixels():
    assert [PlotAxis(2, 4, 100, 0).place(value) for value in (2, 3, 4)] == [100, 50, 0]
    assert [PlotAxis(1, 100, 0, 10, logarithmic=True).place(value) for value in (1, 10, 100)] == [0, 5, 10]


def test_the_pareto_front_leaves_out_what_costs_more_and_is_no_better():
    best = [Point("a", 1, 3.0), Point("c", 3, 2.0)]
    dominated = [Point("b", 2, 3.0), Point("d", 4, 2.5), Point("e", 1, 3.1)]
    assert pareto_front(dominated + best, higher_is_better=False) == best


def test_the_pareto_front_of_an_accuracy_rises():
    best = [Point("a", 1, 0.3), Point("c", 3, 0.4)]
    assert pareto_front([Point("b", 2, 0.3), *best, Point("d", 4, 0.35)], higher_is_better=True) == best


@settings(max_examples=40, deadline=None)
@given(points=some_points(), canvas=st.sampled_from((LARGE, SMALL)))
def test_every_mark_and_every_bar_lies_inside_the_plot(points, canvas):
    svg = drawn(points, canvas=canvas)
    left, right, top, bottom = canvas.plot
    marks = [element for element in svg.iter() if (element.get("class") or "").startswith("mark")]
    assert len(marks) == len(points)
    for circle in svg.iter("circle"):
        assert left <= float(circle.get("cx")) <= right
        assert top <= float(circle.get("cy")) <= bottom
    for square in svg.iter("rect"):
        assert left <= float(square.get("x"))
        assert float(square.get("y")) + float(square.get("height")) <= bottom


@pytest.mark.parametrize(("largest", "logarithmic"), [(3_900, False), (4_100, True)])
def test_the_cost_axis_is_logarithmic_beyond_a_factor_of_four(largest, logarithmic):
    svg = quality_plot(
        [Point("s", 1_000, 2.0), Point("xl", largest, 1.8)], "matta_bits_per_byte", BITS, PARAMETERS, name="f"
    )
    assert ("logarithmic" in svg) is logarithmic


def test_teacher_and_served_models_have_marks_of_their_own_and_no_part_in_the_front():
    points = [
        Point("s", 1, 2.0),
        Point("xl", 2, 1.9),
        Point("s served", 1, 1.8, role="served"),
        Point("Teacher", 4, 1.0, role="teacher"),
    ]
    svg = drawn(points)
    assert len(list(svg.iter("circle"))) == 2
    assert [square.get("class") for square in svg.iter("rect")] == ["mark served"]
    (front,) = (line for line in svg.iter("polyline") if line.get("class") == "front")
    assert len(front.get("points").split()) == 2


def test_a_student_that_was_not_blessed_is_a_ring_and_says_so_in_words():
    svg = drawn([Point("s", 1, 2.0), Point("xl", 2, 1.9, blessed=False)])
    assert [circle.get("class") for circle in svg.iter("circle")] == ["mark student", "mark student held"]
    assert "xl (not blessed)" in [text.text for text in svg.iter("text")]


def test_the_description_tells_every_point_with_its_interval():
    points = [Point("s", 2.5, 0.31, (0.25, 0.37)), Point("Teacher", 9, 0.4, role="teacher")]
    svg = drawn(points, "lambada_openai", ACCURACY, DECODE)
    assert svg.find("title").text == "Lambada_openai against ms per token"
    assert svg.find("desc").text == (
        "lambada_openai, accuracy: higher is better. s: 2.5 ms per token, 31.0% (25.0% to 37.0%); "
        "Teacher: 9 ms per token, 40.0%."
    )
    assert "30%" in [text.text for text in svg.iter("text")]


def test_curves_are_named_at_their_ends_and_names_do_not_overlap():
    curves = {
        name: [(step, 4 + 3 * math.exp(-step / 99) + n / 1000) for step in range(0, 900, 100)]
        for n, name in enumerate("smlx")
    }
    svg = ET.fromstring(curves_plot(curves, "loss"))
    labels = [text for text in svg.iter("text") if text.get("class") == "label"]
    assert [label.text.split()[0] for label in labels] == list("smlx")
    heights = sorted(float(label.get("y")) for label in labels)
    assert min(b - a for a, b in pairwise(heights)) >= 16


def test_a_single_evaluation_is_drawn_too():
    ET.fromstring(curves_plot({"s": [(100, 3.0)]}, "loss"))
    assert len(list(drawn([Point("s", 1, 2.0)]).iter("circle"))) == 1


def test_names_are_escaped():
    assert "<b>&" in [text.text for text in drawn([Point("<b>&", 1, 2.0)]).iter("text")]
