"""Names of points: beside their marks, and never one on another."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from components.report.labels import FONT_PIXELS, overlap, place_labels, spread, text_width
from components.report.plot import LARGE, SMALL

BOLD = "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"


def within(box, bounds):
    return bounds[0] <= box[0] and box[1] <= bounds[1] and bounds[2] <= box[2] and box[3] <= bounds[3]


def marks_in(bounds):
    left, right, top, bottom = bounds
    return st.tuples(st.floats(left + 10, right - 10), st.floats(top + 10, bottom - 10))


@settings(max_examples=40, deadline=None)
@given(marks=st.lists(marks_in(LARGE.plot), min_size=1, max_size=12))
def test_no_name_covers_another_one_or_a_mark_or_the_edge(marks):
    names = [f"size-{number} (not blessed)" for number in range(len(marks))]
    labels = place_labels(names, marks, [], LARGE.plot)
    assert None not in labels
    boxes = [label.box for label in labels]
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    assert all(within(box, LARGE.plot) for box in boxes)
    assert not any(overlap(box, (x - 8, x + 8, y - 8, y + 8)) for box in boxes for x, y in marks)


def test_twenty_points_in_one_place_all_get_a_name_in_the_small_figure():
    left, right, top, bottom = SMALL.plot
    middle = ((left + right) / 2, (top + bottom) / 2)
    labels = place_labels([f"s{number} served" for number in range(20)], [middle] * 20, [], SMALL.plot)
    assert None not in labels
    assert not any(overlap(a.box, b.box) for a, b in combinations(labels, 2))
    assert any(label.leader for label in labels)


def test_a_name_alone_lies_beside_its_mark_without_a_leader():
    (label,) = place_labels(["s"], [(300, 200)], [], LARGE.plot)
    assert label.leader is None
    assert 300 < label.x < 320


def test_a_name_keeps_off_an_error_bar_where_it_can():
    bar = (296, 330, 150, 250)
    (label,) = place_labels(["s"], [(300, 200)], [bar], LARGE.plot)
    assert not overlap(label.box, bar)


def test_a_name_does_not_lie_beside_the_mark_of_another():
    labels = place_labels(["a", "b"], [(300, 200), (330, 200)], [], LARGE.plot)
    assert labels[0].x < 315 < labels[1].x


def test_names_that_find_no_place_are_left_out_rather_than_drawn_over_others():
    labels = place_labels(["name"] * 5, [(20, 20)] * 5, [], (0, 60, 0, 60))
    assert None in labels
    shown = [label.box for label in labels if label]
    assert not any(overlap(a, b) for a, b in combinations(shown, 2))


@pytest.mark.parametrize("name", ["s (Student)", "xl (not blessed)", "Teacher", "mmmm", "small-1_6B served", "illicit"])
def test_the_width_of_a_name_is_an_upper_bound_in_the_widest_font(name):
    try:
        font = ImageFont.truetype(BOLD, 135)
    except OSError:
        pytest.skip(f"{BOLD} is not installed")
    width = font.getlength(name) / 10
    assert width <= text_width(name, FONT_PIXELS) <= 1.5 * width


def test_places_are_spread_by_a_line_and_stay_above_the_lowest():
    assert spread([10, 12, 100], 16, 400) == [10, 26, 100]
    assert spread([395, 396, 397], 16, 400) == [368, 384, 400]
