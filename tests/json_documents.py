"""Documents of JSON that somebody or something changed, for hypothesis."""

import copy
import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from matta_core.errors import UserError

fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_ODDITIES = [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"NaN", b"9" * 5000, b'"\\ud800"']


def places(value, path=()):
    """The paths of all that a JSON value holds."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def changed(draw, document):
    """A copy of a document in which one place holds something else, or is gone."""
    result = copy.deepcopy(document)
    *parents, last = draw(st.sampled_from([path for path in places(document) if path]))
    holder = result
    for key in parents:
        holder = holder[key]
    if draw(st.integers(0, 2)) == 0:
        del holder[last]
    else:
        holder[last] = draw(values)
    return result


def changed_texts(document):
    """The bytes of such a document, or of something that is no document at all."""
    return changed(document).map(lambda value: json.dumps(value).encode()) | st.sampled_from(_ODDITIES)


def in_one_line(use, place):
    """Use a file: any error is one line that names it."""
    try:
        use()
    except UserError as error:
        assert str(place) in str(error)
        assert "\n" not in str(error)
