"""Recipes, profiles and overrides as a careless or hostile hand writes them, for hypothesis."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from matta_core.errors import UserError

quickly = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

# What was seen to end in a traceback, or to be taken for something else, and its kin.
_PIECES = [
    "", "~", "null", "no", "yes", "on", "012", "0o17", "1:30", "1_000", "2026-11-24", "2026-11-24T03:00:00Z", ".nan",
    "-.inf", "1e400", "9" * 400, "9" * 5000, str(2**63), str(2**62), "-1", "0", "1.5", "1e-400", "{}", "[]", "''",
    "[" * 3000, "{a: " * 1500, "&x [*x]", "&x {a: *x}", "{<<: {a: 1}}", "{1: 2, '1': 3}", "{a: 1, a: 2}", "{no: 1}",
    "{? [1] : 2}", "!!binary aGk=", "!!python/object:os.system {}", "!!set {a}", "!!timestamp 2026-11-24", "*x", "&x 1",
    '"\\ud800"', '"\\UFFFFFFFF"', '"\\0"', "'{{$}}'", "'{{$.inputs.parameters[''a'']}}'", "'$(HOME)'", "~/x", "gs:/b/x",
    "gs://", "a" * 300, "b/" * 3000, "名前", "'; rm -rf /'", "'a\n\n  b'", "|\n  a\n  b", ">", "#", "%", "@", "`", "\t",
    "- 1", "? a", "a: b: c", "{intermediate_size: 10}", "[1, [2]]", "true", "'true'", "\x00", "\ufeff", "\U0001f600",
]  # fmt: skip
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
fragments = (
    st.sampled_from(_PIECES)
    | st.text(max_size=20)
    | _values.map(lambda value: yaml.dump(value, default_flow_style=True))
)


def paths_of(values: Any, above: str = "") -> list[str]:
    """The dotted paths of all that a mapping of mappings holds."""
    paths = []
    for key, value in values.items():
        paths.append(above + key)
        if isinstance(value, dict):
            paths += paths_of(value, f"{above}{key}.")
    return paths


def overrides_of(file: Path, *more: str) -> st.SearchStrategy[list[str]]:
    """One to three `key=value`, of settings that the file has, of `more`, and of none."""
    names = st.sampled_from([*paths_of(yaml.safe_load(file.read_text())), *more]) | st.text(max_size=12)
    return st.lists(st.tuples(names, fragments).map("=".join) | st.text(max_size=20), min_size=1, max_size=3)


def texts_of(file: Path) -> st.SearchStrategy[str]:
    """The file with one to three of its lines changed, doubled, put in or cut off; or any text."""

    @st.composite
    def changed(draw: Callable) -> str:
        lines = file.read_text().splitlines()
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(lines) - 1))
            fragment = draw(fragments)
            how = draw(st.sampled_from(["value", "key", "double", "insert", "cut", "within"]))
            if how == "value":
                lines[at] = f"{lines[at].partition(':')[0]}: {fragment}"
            elif how == "key":
                indent = re.match(" *", lines[at])[0]
                lines[at] = f"{indent}{fragment}: {lines[at].partition(':')[2]}"
            elif how == "double":
                lines.insert(at, lines[at])
            elif how == "insert":
                lines.insert(at, fragment)
            elif how == "cut":
                del lines[at:]
                break
            else:
                place = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:place] + fragment + lines[at][place:]
            lines = lines or [""]
        return "\n".join(lines)

    return changed() | st.text(max_size=60) | fragments


def parsed_or_told(read: Callable[[], Any]) -> Any:
    """What `read` returns; None where it raised a UserError of one line. Any other error passes on."""
    try:
        result = read()
    except UserError as error:
        message = str(error)
        assert message, "an error that says nothing"
        assert len(message.splitlines()) == 1, message
        assert len(message) < 20_000, len(message)
        return None
    json.dumps(result.to_dict(), allow_nan=False, ensure_ascii=False).encode()  # what pipelines pass
    return result
