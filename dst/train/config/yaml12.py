"""YAML 1.2 and nothing else: its core schema, in which a text has one meaning.

A number of YAML 1.1 that YAML 1.2 reads otherwise is refused, with its line and what to write
instead: agents of W&B read sweep files as YAML 1.1.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.resolver import VersionedResolver

from dst.core.text import short, shown

_MOST = 100_000  # values in a file
_DEEPEST = 64  # lists and mappings inside of each other
_CORE = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _MERGE = (f"{_CORE}{x}" for x in "null bool int float merge".split())
_OLD = "dst:old"  # a number of YAML 1.1 alone
_DIGITS = "-+.0123456789"

# https://yaml.org/spec/1.2.2/#103-core-schema: tags, what they match, how that begins.
_RULES = [
    (tag, re.compile(rf"(?:{rule})\Z"), starts)
    for tag, rule, starts in (
        (_NULL, r"~|null|Null|NULL|", "~nN"),
        (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
        (
            _OLD,
            r"[-+]?0[0-9_]+"  # 017 was octal
            r"|[-+]?0b[01_]+|[-+]0x[0-9a-fA-F_]+|0x[0-9a-fA-F]*_[0-9a-fA-F_]*"
            r"|[-+]?[0-9]+_[0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"
            r"|[-+]?[0-9]*\.[0-9]*_[0-9_]*([eE][-+]?[0-9]+)?"
            r"|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?",  # 1:30 was 90
            _DIGITS,
        ),
        (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _DIGITS),
        (
            _FLOAT,
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            _DIGITS,
        ),
        (_MERGE, r"<<", "<"),  # not of the core schema; sections are shared by it
    )
]


class Refused(ValueError):
    """A text that is no YAML 1.2, or that YAML 1.1 reads otherwise.

    Attributes:
      line: of the text, from 1; None: the whole of it.
    """

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


def load(text: str) -> Any:
    """The plain data of a YAML 1.2 text.

    Raises:
      Refused: another version, no YAML, a key given twice, a tag, or aliases that stand for more
        than 100,000 values.
    """
    yaml = _yaml()
    try:
        _check_directives(text)
        _check_depth(yaml, text)
        node = yaml.compose(text)
        _check_nodes(node)
        return None if node is None else yaml.constructor.construct_document(node)
    except RecursionError as error:  # of aliases inside of aliases
        raise Refused("this is nested too deeply.") from error
    except YAMLError as error:
        line, what = None, str(error)  # characters that it cannot have
        if isinstance(error, MarkedYAMLError):
            line, what = _line(error.problem_mark or error.context_mark), error.problem
        raise Refused(f"this is no valid YAML: {short(str(what))}.", line) from error


def dump(data: Any) -> str:
    """Plain data as text, from which :func:`load` reads the same."""
    yaml: Any = _yaml()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def lines(text: str) -> Callable[[Sequence[str | int]], int]:
    """A function from keys to their line in a text that :func:`load` reads. Keys that it does not
    have are on the line of what is around them."""
    top = _yaml().compose(text)

    def line(keys: Sequence[str | int]) -> int:
        node, number = top, 1
        for key in keys:
            if (found := _child(node, key)) is None:
                break
            number, node = found
        return number

    return line


def _child(node: Any, key: str | int) -> tuple[int, Any] | None:
    """The line and the value of a key of a mapping, or of an entry of a list."""
    if isinstance(node, MappingNode):
        return next(((_line(k.start_mark), v) for k, v in node.value if k.value == str(key)), None)
    if isinstance(node, SequenceNode) and isinstance(key, int) and key < len(node.value):
        return _line(node.value[key].start_mark), node.value[key]
    return None


def _line(mark: Any) -> int:
    return mark.line + 1


def _check_directives(text: str) -> None:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.startswith("%") and line.split()[:2] != ["%YAML", "1.2"]:
            raise Refused(
                f"the directive {shown(line.strip())} is not read: files are YAML 1.2. Take the "
                "line out.",
                number,
            )


def _check_depth(yaml: Any, text: str) -> None:
    """Raises Refused where reading would take a function call, or seconds, for every level."""
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise Refused("this is nested too deeply.", _line(event.start_mark))


def _check_nodes(top: Any) -> None:
    """Raises Refused where a key stands twice, or aliases repeat so much, or themselves, that
    nothing can read it."""
    sizes: dict[int, int] = {}  # of nodes, with what aliases repeat in them

    def size(node: Any) -> int:
        if not isinstance(node, MappingNode | SequenceNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = _MOST + 1  # of a node inside of itself
            inner = node.value
            if isinstance(node, MappingNode):
                _check_keys([key for key, _ in node.value])
                inner = [x for pair in node.value for x in pair]
            sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    if size(top) > _MOST:
        pairs = top.value if isinstance(top, MappingNode) else ()
        line = next((_line(key.start_mark) for key, value in pairs if size(value) > _MOST), None)
        raise Refused(f"aliases stand for more than {_MOST} values. Write them out.", line)


def _check_keys(keys: Sequence[Any]) -> None:
    seen: dict[str, int] = {}
    for key in keys:
        if not isinstance(key, ScalarNode):
            continue
        if key.value in seen:
            raise Refused(
                f"the key {shown(key.value)} is given twice, first in line {seen[key.value]}. Take "
                "one out.",
                _line(key.start_mark),
            )
        seen[key.value] = _line(key.start_mark)


class _Resolver(VersionedResolver):
    """What a scalar without quotes is, in YAML 1.2."""

    processing_version = (1, 2)
    versioned_resolver = {
        first: [(tag, rule) for tag, rule, starts in _RULES if first in starts]
        for first in ("", *"~nNtTfF<", *_DIGITS)
    }


class _Constructor(SafeConstructor):
    """Values of the core schema alone."""

    def construct_undefined(self, node: Any) -> NoReturn:
        tag = str(node.tag).replace(_CORE, "!!")
        raise Refused(
            f"the tag {shown(tag)} is not read. Write the value without it; text in quotes.",
            _line(node.start_mark),
        )

    def old(self, node: Any) -> NoReturn:
        """Refuses a number of YAML 1.1."""
        raise Refused(
            f"{shown(node.value)} is a number of YAML 1.1, and files are YAML 1.2. Write "
            f"{short(_in_digits(node.value))}; or, if it is text, put it in quotes.",
            _line(node.start_mark),
        )

    def scalar(self, node: Any) -> Any:
        """Null, a boolean or a number; its tag may have been written out."""
        text = self.construct_scalar(node)
        if not next(rule for tag, rule, _ in _RULES if tag == node.tag).match(text):
            self.construct_undefined(node)
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return text[0] in "tT"
        if node.tag == _FLOAT:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        try:
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        except ValueError as error:
            raise Refused(f"{shown(text)} has too many digits.", _line(node.start_mark)) from error


_Constructor.yaml_constructors = {
    **dict.fromkeys((_NULL, _BOOL, _INT, _FLOAT), _Constructor.scalar),
    f"{_CORE}str": SafeConstructor.construct_yaml_str,
    f"{_CORE}seq": SafeConstructor.construct_yaml_seq,
    f"{_CORE}map": SafeConstructor.construct_yaml_map,
    _OLD: _Constructor.old,
    None: _Constructor.construct_undefined,
}


def _in_digits(text: str) -> str:
    """A number of YAML 1.1 as YAML 1.2 writes it; one with a leading zero as it looks."""
    number = text.replace("_", "").lower()
    sign, number = ("-" if number[0] == "-" else ""), number.lstrip("-+")
    if ":" in number:
        total = 0.0
        for part in number.split(":"):
            total = 60 * total + float(part)
        number = f"{total:g}"
    elif number[:2] in ("0b", "0x"):
        number = str(int(number, 0))
    elif number.isdecimal():
        number = number.lstrip("0") or "0"
    return sign + number


def _yaml() -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor = _Resolver, _Constructor
    return yaml
