"""The page in a headless Chromium: what is really drawn, asked for, reached by keyboard and told to a screen reader."""

from itertools import pairwise

import chromium
import pytest

from components.report.plot import LARGE, SMALL
from components.report.step import report

pytestmark = pytest.mark.slow

WIDTHS = (360, 800, 1280)
CROWDED = {f"size-{number}": 10**6 + 40_000 * number for number in range(9)} | {"xl": 3 * 10**6}

# Of every figure: its width in its own units, and the boxes, in the same, of texts, marks, bars and fronts.
BOXES = """
[...document.querySelectorAll('svg')].map(svg => {
  const boxes = (selector, pad) => [...svg.querySelectorAll(selector)].map(element => {
    const box = element.getBBox();
    return [element.textContent || element.getAttribute('class'), box.x, box.x + box.width, box.y, box.y + box.height];
  });
  return {width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height, texts: boxes('text'),
          labels: boxes('text.label'), marks: boxes('.mark, .error, .front, .grid')};
})
"""
# Elements that stick out of the window, other than inside a region that scrolls.
OVERFLOW = """
[...document.querySelectorAll('body *')].filter(element => !element.closest('.scroll > *') &&
  element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map(element => element.outerHTML)
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def usual(tmp_path_factory, runs):
    return runs(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module", params=["usual", "crowded"])
def file(request, tmp_path_factory, usual, runs):
    """Two pages: a usual run, and one of ten sizes that are nearly equal in cost and figures, all with a baseline."""
    if request.param == "usual":
        return usual
    bits = {size: 2.2 - number / 2000 for number, size in enumerate(CROWDED)} | {"teacher": 2.1}
    return runs(tmp_path_factory.mktemp("crowded"), sizes=CROWDED, bits=bits, served=tuple(CROWDED))


@pytest.fixture(scope="module")
def runs(make_run, further_tasks):
    def make(folder, **settings):
        run = make_run(folder, tasks=further_tasks, slices=("json", "asyncio", "email"), **settings)
        return report(**run, name="demo", output=folder / "report").path / "report.html"

    return make


def overlaps(boxes, by=0.5):
    """Pairs of names whose boxes share more than `by` units each way."""
    return [
        (a[0], b[0])
        for number, a in enumerate(boxes)
        for b in boxes[:number]
        if min(a[2], b[2]) - max(a[1], b[1]) > by and min(a[4], b[4]) - max(a[3], b[3]) > by
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_as_wide_as_the_window_asks_for_nothing_and_complains_of_nothing(page, file, width):
    page.open(file, width=width)
    assert page.requests == [file.resolve().as_uri()]
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.body.scrollWidth - document.body.clientWidth") == 0
    assert page.evaluate(OVERFLOW) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_no_two_texts_of_a_figure_overlap_and_all_lie_in_it(page, file, width):
    page.open(file, width=width)
    figures = page.evaluate(BOXES)
    assert len(figures) == 9
    for figure in figures:
        assert overlaps(figure["texts"]) == []
        for text, left, right, top, bottom in figure["texts"]:
            assert min(left, top) >= 0, text
            assert right <= figure["width"], text
            assert bottom <= figure["height"], text


def test_every_model_is_named_in_every_figure(page, file):
    page.open(file)
    *quality, curves = page.evaluate(BOXES)
    students = (
        page.evaluate("document.querySelectorAll('#models-caption')[0].closest('table').tBodies[0].rows.length") - 1
    )
    for figure in quality:
        names = {text for text, *_ in figure["labels"]}
        assert len(names) == sum(text.startswith("mark") for text, *_ in figure["marks"])
        assert "Teacher" in names
    assert len(curves["labels"]) == students


def test_every_mark_bar_and_front_lies_inside_its_plot(page, file):
    page.open(file)
    for figure in page.evaluate(BOXES):
        left, right, top, bottom = next(canvas for canvas in (LARGE, SMALL) if canvas.width == figure["width"]).plot
        for text, *box in figure["marks"]:
            assert left <= box[0] <= box[1] <= right, text
            assert top <= box[2] <= box[3] <= bottom, text


def brightness(image):
    """The most frequent brightness of a picture's pixels, 0 to 255: that of the paper."""
    histogram = image.convert("L").histogram()
    return histogram.index(max(histogram))


def test_dark_is_dark_light_is_light_and_ink_differs_from_paper_in_both(page, usual):
    for dark in (False, True):
        page.open(usual, dark=dark)
        image = page.screenshot()
        assert brightness(image) < 40 if dark else brightness(image) > 240
        darkest, lightest = image.convert("L").getextrema()
        assert lightest - darkest > 180


def test_the_marks_are_painted_in_their_colours(page, usual):
    for dark, colours in ((False, ("#0072b2", "#b84a00", "#00744f")), (True, ("#56b4e9", "#e69f00", "#4fc79a"))):
        page.open(usual, dark=dark, height=1600)
        painted = {colour for _, colour in page.screenshot().getcolors(1 << 24)}
        for colour in colours:
            assert tuple(bytes.fromhex(colour[1:])) in painted, colour


@pytest.mark.parametrize("width", WIDTHS)
def test_tab_reaches_every_link_and_every_region_that_scrolls_in_order_and_shows_where_it_is(page, usual, width):
    page.open(usual, width=width)
    page.evaluate(
        "void (window.stops = [...document.querySelectorAll('a, .scroll')], window.seen = [], "
        "document.addEventListener('focusin', event => window.seen.push([window.stops.indexOf(event.target), "
        "getComputedStyle(event.target).outlineStyle])))"
    )
    number = page.evaluate("stops.length")
    for _ in range(number):
        page.press_tab()
    assert page.evaluate("seen") == [[at, "solid"] for at in range(number)]
    assert number > 20


def test_what_is_wider_than_the_window_can_be_scrolled_to(page, usual):
    page.open(usual, width=360)
    moved = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(region => region.scrollWidth > region.clientWidth)"
        ".map(region => { region.scrollLeft = 1e6;"
        " return region.scrollLeft + region.clientWidth - region.scrollWidth })"
    )
    assert len(moved) > 10
    assert all(abs(rest) <= 1 for rest in moved)


def test_a_screen_reader_is_told_of_every_figure_table_and_region(page, usual):
    page.open(usual)
    tree = page.accessibility_tree()
    figures = [(name, description) for role, name, description in tree if role in ("image", "img")]
    assert len(figures) == 9
    assert figures[0][0] == "Bits per byte against parameters"
    assert "s: 900.0 k parameters, 2.310 (2.269 to 2.351); s served: 900.0 k parameters, 2.340" in figures[0][1]
    for role, count in (("table", "table"), ("region", "[role=region], section")):
        names = [name for of, name, _ in tree if of == role]
        assert len(names) == page.evaluate(f"document.querySelectorAll('{count}').length")
        assert all(names)
    assert {"main", "banner", "navigation"} <= {role for role, *_ in tree}
    for role, cells in (("columnheader", "thead th"), ("rowheader", "tbody th")):
        told = sum(of == role for of, *_ in tree)
        assert told == page.evaluate(f"document.querySelectorAll('{cells}').length")


def test_headings_go_down_one_level_at_a_time(page, usual):
    page.open(usual)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(next_ <= level + 1 for level, next_ in pairwise(levels))


def test_on_paper_it_is_light_and_nothing_is_cut_off(page, usual):
    a4 = 718  # CSS pixels between margins of one centimetre
    page.open(usual, width=a4, dark=True, media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(252, 252, 250)"
    assert page.evaluate("document.documentElement.scrollWidth") == a4
    assert (
        page.evaluate(
            "[...document.querySelectorAll('table, svg')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)"
            ".map(e => e.textContent.slice(0, 80))"
        )
        == []
    )
