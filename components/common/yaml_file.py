"""The YAML of recipes, cluster profiles and `--set`: YAML 1.2's core schema, with the line in every error.

PyYAML follows YAML 1.1, which reads `no` as false, `012` as 10 and `1:30` as 90, and keeps the last of two equal keys.
Here its parser gives the nodes, and the code below gives them their meaning. It refuses what is easily misread or is no
JSON: keys that stand twice or are no strings, values left empty, tags, merge keys, anchors within themselves.

Source: YAML 1.2.2, section 10.3 (core schema).
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from matta_core.errors import UserError
from matta_core.recipe.settings import WHOLE_NUMBERS

_MAX_DEPTH = 32  # levels; a recipe has six
_MAX_VALUES = 100_000  # with all aliases expanded, which may be many more than the file shows
_CONSTANTS = {
    word: value
    for spelled, value in {"null": None, "true": True, "false": False}.items()
    for word in (spelled, spelled.capitalize(), spelled.upper())
} | {"~": None}
_INTEGERS = ((r"[-+]?[0-9]+", 10), (r"0o[0-7]+", 8), (r"0x[0-9a-fA-F]+", 16))
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_BREAKS = r"\r\n?|\n"
_OLD_BREAKS = "[\x85\u2028\u2029]"  # YAML 1.2 takes them for text, PyYAML for line ends
_NOT_FINITE = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


class YamlDocument(NamedTuple):
    """A text's values, and the line (from 1) of each value by its path: `train.sizes.s`, `a.b[0]`."""

    values: Any
    lines: dict[str, int]


def read_yaml(text: str, source: str) -> YamlDocument:
    """The one document in `text`. Raises: UserError that names the `source`, the line, and what to change."""
    if other := re.search(_OLD_BREAKS, text):
        raise UserError(
            f"{source}, {_place(text, other.start())}: character {ord(other[0]):#x}, which ended a line before YAML "
            "1.2: take it out"
        )
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        except (ValueError, OverflowError):  # PyYAML raises it for an escape such as \UFFFFFFFF
            raise UserError(f"{source}, line {loader.line + 1}: there is no character of such a number") from None
        reader = _Reader()
        if root is not None:
            return YamlDocument(reader.value(root, ""), reader.lines)
    except _RefusedError as error:
        raise UserError(f"{source}, line {error.mark.line + 1}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        line, column, problem = _mistake(re.split(_BREAKS, text), error)
        raise UserError(f"{source}, line {line}, column {column}: {problem}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(
            f"{source}, {_place(text, error.position)}: character {error.character:#x}, which YAML does not allow: "
            "take it out"
        ) from None
    raise UserError(f"{source} is empty: there is no value in it")


def read_text(path: Path) -> str:
    """A file's text. Raises: OSError; UserError, without the file's name, where it is not in UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        place = _place(before, len(before))
        raise UserError(f"{place}: byte {data[error.start]:#x} is not UTF-8: save the file in that encoding") from None


def _place(text: str, position: int) -> str:
    before = re.split(_BREAKS, text[:position])
    return f"line {len(before)}, column {len(before[-1]) + 1}"


def _mistake(lines: list[str], error: yaml.MarkedYAMLError) -> tuple[int, int, str]:
    """Line, column, and in place of PyYAML's words what is wrong and what to do."""
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or ""
    assert mark is not None, "of an error in a text"
    begun = error.context_mark or mark  # where PyYAML was, when it met the mistake
    line, indented = lines[mark.line], re.match(r"\s*", lines[mark.line])
    at = line[mark.column : mark.column + 1]
    if at == "\t" or (indented and "\t" in indented[0]):
        return mark.line + 1, line.index("\t") + 1, "a tab: indent with spaces"
    told = f"{problem}: quote what is text"
    if "cannot start any token" in problem or "undefined alias" in problem:
        told = f"text must not begin with {at}: quote it"
    elif (error.context or "").startswith(("while scanning an alias", "while scanning an anchor")):
        mark, told = begun, f"text must not begin with {lines[begun.line][begun.column]}: quote it"
    elif problem == "could not find expected ':'":
        mark, told = begun, _no_setting(lines[begun.line])
    elif "mapping values are not allowed" in problem and re.search(r":\s", line[: mark.column]):
        told = "a second colon in one line: quote text that holds one"
    elif "mapping values are not allowed" in problem or "<document start>" in problem:
        settings = [n for n, one in enumerate(lines[: mark.line]) if re.match(r"\s*[^\s#]", one)]
        above = settings[-1] if settings else mark.line
        if not re.search(r":(\s|$)", lines[above]):
            return above + 1, 1, _no_setting(lines[above])
        told = f"the setting in line {above + 1} has its value there: indent both alike"
    elif "quoted scalar" in (error.context or "") and "end of stream" in problem:
        mark, told = begun, "a quotation mark that is not closed: close it"
    elif problem.startswith("expected ','") or "<stream end>" in problem:
        told = f"what begins in line {begun.line + 1}, column {begun.column + 1} is not closed, or a comma is missing"
    elif problem.startswith("expected <block end>"):
        told = f"no part of what begins in line {begun.line + 1}: give all of one section the same indentation"
    elif "another document" in problem:
        told = "a second document begins: leave one out"
    return mark.line + 1, mark.column + 1, told


def _no_setting(line: str) -> str:
    return (
        f"{line.strip()[:60]!r} is no setting: a setting is KEY: VALUE, with a space after the colon; put # before a "
        "heading"
    )


class _RefusedError(Exception):
    """The text is YAML, but a recipe may not hold it."""

    def __init__(self, mark: yaml.Mark, problem: str) -> None:
        self.mark, self.problem = mark, problem


class _Loader(yaml.BaseLoader):
    """Gives nodes without types. `_Reader` decides which scalars are numbers."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.open_anchors: list[str | None] = []

    def compose_document(self) -> yaml.Node | None:
        event: Any = self.peek_event()
        if event.version not in (None, (1, 2)):
            raise _RefusedError(event.start_mark, f"%YAML {'.'.join(map(str, event.version))}: recipes are YAML 1.2")
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.open_anchors:
                raise _RefusedError(mark, f"*{event.anchor} stands within its own anchor &{event.anchor}")
        elif event.tag is not None:
            raise _RefusedError(mark, f"the tag {event.tag}: write a plain value, quoted where it is text")
        anchor = None if isinstance(event, yaml.AliasEvent) else event.anchor
        self.open_anchors.append(anchor)
        if len(self.open_anchors) > _MAX_DEPTH:
            raise _RefusedError(mark, f"more than {_MAX_DEPTH} levels within one another")
        node = super().compose_node(parent, index)
        self.open_anchors.pop()
        return node


class _Reader:
    """Turns nodes into values, and notes their lines."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.count = 0

    def value(self, node: yaml.Node, path: str) -> Any:
        self.count += 1
        if self.count > _MAX_VALUES:
            raise _RefusedError(node.start_mark, f"more than {_MAX_VALUES:,} values, with aliases written out")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        assert isinstance(node, yaml.ScalarNode), node
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = _key(key_node), key_node.start_mark.line + 1
            if key in first:
                raise _RefusedError(
                    key_node.start_mark, f"{key} stands twice, first in line {first[key]}: leave one out"
                )
            first[key] = line
            place = f"{path}.{key}" if path else key
            self.lines[place] = line
            values[key] = self.value(value_node, place)
        return values


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _RefusedError(node.start_mark, "keys are text, and a list or mapping stands for a key")
    key = _scalar(node, "a key")
    if not isinstance(key, str):
        raise _RefusedError(node.start_mark, f"keys are text, and {node.value[:40]} is no text: quote it")
    if key == "<<" and not node.style:
        raise _RefusedError(node.start_mark, "YAML 1.2 has no merge key <<: write the settings out")
    return key


def _scalar(node: yaml.ScalarNode, what: str = "a value") -> Any:
    text = node.value
    if node.style:  # quoted, or a block
        try:  # JSON writes a character beyond 16 bits as two escapes
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _RefusedError(node.start_mark, f"{what} holds half of a character: write all of it") from None
    if not text:
        raise _RefusedError(node.start_mark, f"{what} is missing: write null for none, or leave the setting out")
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    for pattern, base in _INTEGERS:
        if re.fullmatch(pattern, text):
            if len(text) > 80 or int(text, base) not in WHOLE_NUMBERS:
                raise _RefusedError(node.start_mark, f"{text[:40]} is too large for 64 bits: quote it where it is text")
            return int(text, base)
    if re.fullmatch(_NOT_FINITE, text):
        return float(text.replace(".", ""))
    if re.fullmatch(_FLOAT, text):
        if (number := float(text)) in (float("inf"), float("-inf")):
            raise _RefusedError(node.start_mark, f"{text[:40]} is too large for a number: quote it where it is text")
        return number
    return text
