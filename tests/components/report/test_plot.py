"""The figures: ticks are round numbers, and what is drawn lies inside and is well formed."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report.plot import (
    HEIGHT,
    WIDTH,
    Axis,
    Point,
    curves_plot,
    log_ticks,
    nice_ticks,
    pareto_front,
    quality_plot,
)

bits = st.floats(0.5, 9.0)
errors = st.floats(0.0, 0.5)
points = st.lists(
    st.builds(
        Point, st.text(min_size=1, max_size=3), st.integers(1, 10**12), bits, errors, st.booleans(), st.booleans()
    ),
    min_size=1,
    max_size=8,
)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e9))
def test_linear_ticks_are_few_and_within_the_bounds(low, span):
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-9 * span <= tick <= low + span * (1 + 1e-9) for tick in ticks)


def test_linear_ticks_are_round():
    assert nice_ticks(1.93, 2.46) == [2.0, 2.1, 2.2, 2.3, 2.4]
    assert nice_ticks(0, 800) == [0, 200, 400, 600, 800]


def test_logarithmic_ticks_are_one_two_and_five():
    assert log_ticks(90_000, 2_100_000) == [1e5, 2e5, 5e5, 1e6, 2e6]
    assert log_ticks(1, 1e5) == [1, 10, 100, 1e3, 1e4, 1e5]


def test_an_axis_maps_its_ends_to_its_pixels():
    assert [Axis(2, 4, 100, 0).place(value) for value in (2, 3, 4)] == [100, 50, 0]
    assert [Axis(1, 100, 0, 10, logarithmic=True).place(value) for value in (1, 10, 100)] == [0, 5, 10]


def test_the_pareto_front_leaves_out_what_is_larger_and_no_better():
    best = [Point("a", 1, 3.0, 0), Point("c", 3, 2.0, 0)]
    dominated = [Point("b", 2, 3.0, 0), Point("d", 4, 2.5, 0), Point("e", 1, 3.1, 0)]
    assert pareto_front(dominated + best) == best


@given(points)
def test_a_quality_plot_is_well_formed_and_its_markers_lie_inside(points):
    svg = ET.fromstring(quality_plot([point for point in points if xml_can_hold(point.name)] or [Point("s", 1, 1, 0)]))
    for circle in svg.iter("circle"):
        assert 0 < float(circle.get("cx")) < WIDTH
        assert 0 < float(circle.get("cy")) < HEIGHT
    assert svg.find("title").text == "Quality against cost"


def xml_can_hold(text):
    return all(character.isprintable() for character in text)


@pytest.mark.parametrize(("largest", "logarithmic"), [(9_000, False), (11_000, True)])
def test_the_cost_axis_is_logarithmic_beyond_a_factor_of_ten(largest, logarithmic):
    svg = quality_plot([Point("s", 1_000, 2.0, 0.1), Point("xl", largest, 1.8, 0.1)])
    assert ("logarithmic" in svg) is logarithmic


def test_the_teacher_is_drawn_apart_and_left_out_of_the_front():
    svg = ET.fromstring(
        quality_plot(
            [Point("s", 1, 2.0, 0.1), Point("xl", 2, 1.9, 0.1), Point("Teacher", 4, 1.0, 0.1, is_teacher=True)]
        )
    )
    assert len(list(svg.iter("circle"))) == 2
    (front,) = (line for line in svg.iter("polyline") if line.get("class") == "front")
    assert len(front.get("points").split()) == 2


def test_a_student_that_was_not_blessed_is_a_ring_and_says_so_in_words():
    svg = quality_plot([Point("s", 1, 2.0, 0.1), Point("xl", 2, 1.9, 0.1, blessed=False)])
    assert 'class="student held"' in svg
    assert ">xl (not blessed)<" in svg


def test_curves_are_named_at_their_ends_and_names_do_not_overlap():
    curves = {
        name: [(step, 4 + 3 * math.exp(-step / 99) + n / 1000) for step in range(0, 900, 100)]
        for n, name in enumerate("smlx")
    }
    svg = ET.fromstring(curves_plot(curves))
    labels = [text for text in svg.iter("text") if text.get("class") == "label"]
    assert [label.text.split()[0] for label in labels] == list("smlx")
    heights = sorted(float(label.get("y")) for label in labels)
    assert min(b - a for a, b in pairwise(heights)) >= 16


def test_a_single_evaluation_is_drawn_too():
    ET.fromstring(curves_plot({"s": [(100, 3.0)]}))


def test_names_are_escaped():
    svg = quality_plot([Point("<b>&", 1, 2.0, 0.1)])
    assert "&lt;b&gt;&amp;" in svg
    ET.fromstring(svg)
