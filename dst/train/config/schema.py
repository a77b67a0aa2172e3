"""From plain data to frozen dataclasses and back, strictly; and the JSON Schema of the same types.

The types are those of the dataclasses themselves: ``bool``, ``int``, ``float``, ``str``, ``None``,
``Literal``, unions, ``tuple[x, ...]``, ``Mapping[str, x]``, dataclasses, and sections that are
one of several dataclasses (:class:`Choice`). Nothing is converted except integers to floats:
``true`` is no number and ``"1"`` no integer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from dst.core import checks
from dst.core.text import short, shown
from dst.rules.allocation import Allocator, ErdosRenyi, Global, Uniform
from dst.rules.structure import (
    NM,
    BalancedBlock,
    Block,
    ConstantFanIn,
    InputChannel,
    OutputChannel,
    Structure,
    TransposableNM,
    Unstructured,
)
from dst.train.config import doors, signatures, strict


@dataclass(frozen=True)
class Section:
    """What a config names, and its arguments.

    Attributes:
      name: in configs; of things of the user's own their import path.
      value: a dataclass of the arguments.
      load: gives what is called with them; None: ``value`` is the thing itself.
      imported: whether ``name`` is an import path.
    """

    name: str
    value: Any
    load: Callable[[], Callable[..., Any]] | None = field(default=None, compare=False, repr=False)
    imported: bool = False

    def make(self, **offered: Any) -> Any:
        """The thing: its factory called with the arguments, and with what it takes of the offers.

        Raises:
          ValueError: what the factory raises.
        """
        if self.load is None:
            return self.value
        own = {f.name: getattr(self.value, f.name) for f in dataclasses.fields(self.value)}
        return self.load()(**{k: v for k, v in (own | offered).items() if self.takes(k)})

    def takes(self, argument: str) -> bool:
        """Whether the factory has an argument of this name."""
        return self.load is not None and argument in signatures.parameters(self.load())


@dataclass(frozen=True)
class Option:
    """One dataclass of a choice.

    Attributes:
      type: the dataclass of its arguments.
      defaults: those that differ from its own.
      about: the object whose docstring describes the option; None: the dataclass.
      load: gives the factory that is called with the arguments; None: the dataclass is the thing.
      words: whether names that a pattern stands for are plain words, not paths.
    """

    type: type
    defaults: Mapping[str, Any] = field(default_factory=dict)
    about: Any = None
    load: Callable[[], Callable[..., Any]] | None = None
    words: bool = False


@dataclass(frozen=True, eq=False)
class Choice:
    """A section that is one of several dataclasses, distinguished by its key ``name``.

    Attributes:
      options: by name, or by pattern (``tfds:*``) where names are not known here. A bare name
        stands for the option with its defaults.
      named: whether reading keeps the name, as a :class:`Section`.
      bare: whether a bare name is left as it is, where the Python API takes names too.
      offers: what the program passes to a factory, beside the arguments; None: the key ``import``
        opens no door here.
      shared: a dataclass of the arguments that every thing of this kind has; None: there are none.
    """

    options: Mapping[str, Option]
    named: bool = True
    bare: bool = False
    offers: tuple[str, ...] | None = None
    shared: type | None = None

    def entry(self, name: Any) -> str | None:
        """The key of ``options`` that a name belongs to, or None."""
        found = (key for key in self.options if isinstance(name, str) and fnmatchcase(name, key))
        return next(found, None)

    def read(self, value: Any, key: str) -> Any:
        """The dataclass that a mapping or a bare name describes."""
        given = {"name": value} if isinstance(value, str) else value
        if self.offers is not None and isinstance(given, Mapping) and "import" in given:
            return self._imported(given, key)
        if not isinstance(given, Mapping) or "name" not in given:
            door = " or with the key 'import'" if self.offers is not None else ""
            raise ValueError(
                f"{key} must be a mapping with the key 'name', one of {list(self.options)},{door} "
                f"got {shown(value)}."
            )
        entry = self.entry(given["name"])
        if entry is None:
            raise checks.unknown(
                f"{key}.name", given["name"], self.options, self._completed(given["name"])
            )
        if self.bare and given is not value:
            return value
        option = self.options[entry]
        fields = {k: v for k, v in given.items() if k != "name"}
        self._refuse_keys_of_others(entry, fields, key)
        arguments = read_fields(option.type, fields, key, option.defaults)
        return Section(given["name"], arguments, option.load) if self.named else arguments

    def _completed(self, name: Any) -> str:
        """A suggestion for a word that is one of a pattern but for the start: `tfds:cifar10`."""
        if not (isinstance(name, str) and re.fullmatch(r"\w{1,40}", name)):
            return ""
        full = [
            x[:-1] + name for x, option in self.options.items() if option.words and x[-1] == "*"
        ]
        return f" Did you mean {' or '.join(map(shown, full))}?" if full else ""

    def _refuse_keys_of_others(self, entry: str, given: Mapping[str, Any], key: str) -> None:
        known = {name: strict.hints(x.type).keys() for name, x in self.options.items()}
        for name in given:
            owners = [other for other, names in known.items() if name in names]
            if owners and entry not in owners:
                shown = [*owners[:3], *(["others"] if len(owners) > 3 else [])]
                raise ValueError(
                    f"{key}.{name} is no known key of {entry}: it belongs to "
                    f"{' and '.join(shown)}. {key} has the keys {list(known[entry])}."
                )

    def _imported(self, given: Mapping[str, Any], key: str) -> Section:
        if "name" in given:
            raise ValueError(f"{key} must have the key 'name' or the key 'import', got both.")
        thing, path = doors.resolve(given["import"], f"{key}.import")
        cls = signatures.arguments(thing, self.offers or (), self.shared, f"{key}.import")
        fields = {k: v for k, v in given.items() if k != "import"}
        return Section(path, read_fields(cls, fields, key, {}), lambda: thing, imported=True)

    def dump(self, value: Any) -> Any:
        """Plain data that :meth:`read` turns into ``value`` again."""
        if isinstance(value, Section):
            word = "import" if value.imported else "name"
            return {word: value.name, **dump(type(value.value), value.value)}
        if isinstance(value, str):
            return value
        for name, option in self.options.items():
            if type(value) is option.type and all(
                getattr(value, k) == v for k, v in option.defaults.items()
            ):
                bare = _by_default(option.type) and value == option.type(**option.defaults)
                return name if bare else {"name": name, **dump(option.type, value)}
        raise TypeError(f"{shown(value)} has no name in configs.")


# Fields of the methods that hold code in the Python API and have names in configs.
_CHOICES: dict[Any, Choice] = {
    str | Allocator: Choice(
        {
            "uniform": Option(Uniform),
            "er": Option(ErdosRenyi, {"kernel": False}),
            "erk": Option(ErdosRenyi),
            "global": Option(Global),
            "lamp": Option(Global, {"score": "lamp"}),
        },
        named=False,
        bare=True,
    ),
    Structure: Choice(
        {
            "unstructured": Option(Unstructured),
            "nm": Option(NM),
            "transposable-nm": Option(TransposableNM),
            "block": Option(Block),
            "balanced-block": Option(BalancedBlock),
            "constant-fan-in": Option(ConstantFanIn),
            "output-channel": Option(OutputChannel),
            "input-channel": Option(InputChannel),
        },
        named=False,
    ),
}


def _by_default(cls: Any) -> bool:
    """Whether every field has a default."""
    fields = dataclasses.fields(cls)
    return all(
        f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        for f in fields
    )


def read(hint: Any, value: Any, key: str) -> Any:
    """The value of a type with rules of its own that plain data describes.

    Args:
      hint: a type, as it stands in a dataclass.
      value: plain data: mappings, lists, strings, numbers, booleans, None.
      key: dotted, for messages.

    Raises:
      ValueError: what was expected at which key, what was found, the nearest valid name.
    """
    if choice := choice_of(hint):
        return None if value is None and is_optional(hint) else choice.read(value, key)
    kind = get_origin(hint) or hint
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return read_fields(hint, value, key, {})
    if value is None and type(None) in strict.arms(hint):
        return None
    if len(strict.arms(hint)) > 1:
        return read(next(x for x in strict.arms(hint) if nested(x)), value, key)
    if kind in strict.LISTS and isinstance(value, list | tuple):
        return tuple(read(strict.item(hint), x, f"{key}[{i}]") for i, x in enumerate(value))
    if kind in strict.MAPPINGS and isinstance(value, Mapping):
        return {
            str(k): read(strict.item(hint), v, f"{key}.{short(str(k))}") for k, v in value.items()
        }
    raise ValueError(f"{key or 'a config'} must be {nested(hint)}, got {shown(value)}.")


def read_fields(cls: Any, given: Mapping, key: str, defaults: Mapping[str, Any]) -> Any:
    """The dataclass that a mapping describes, with defaults that differ from its own."""
    hints, prefix = strict.hints(cls), f"{key}." if key else ""
    values = strict.validated(cls, given, key, frozenset(defaults), nested)
    for name in values:
        if nested(hints[name]):
            values[name] = read(hints[name], given[name], prefix + name)
    try:
        return cls(**{**defaults, **values})
    except ValueError as error:
        # The checks of a dataclass name its own field first; here it becomes the dotted key.
        own = re.split(r"[\s=:[]", str(error), maxsplit=1)[0] in hints
        raise ValueError(f"{prefix}{error}" if own or not key else f"{key}: {error}") from error


@cache
def nested(hint: Any) -> str | None:
    """In words, what a type may be that :func:`read` knows; None for what pydantic knows."""
    if choice := choice_of(hint):
        return f"one of {list(choice.options)}"
    if dataclasses.is_dataclass(hint):
        return "a mapping with the keys " + str([f.name for f in strict.fields(hint)])
    kind, arms = get_origin(hint) or hint, strict.arms(hint)
    if len(arms) > 1:
        inner = " or ".join(strict.words(x, nested) for x in arms)
        return inner if any(map(nested, arms)) else None
    if kind in (*strict.LISTS, *strict.MAPPINGS) and nested(strict.item(hint)):
        return "a list" if kind in strict.LISTS else "a mapping"
    return None


def dump(hint: Any, value: Any) -> Any:
    """Plain data from which :func:`read` makes ``value`` again."""
    if value is None:
        return None
    if choice := choice_of(hint):
        return choice.dump(value)
    if dataclasses.is_dataclass(value):
        hints = strict.hints(type(value))  # type: ignore[arg-type]
        own = strict.fields(type(value))
        return {f.name: dump(hints[f.name], getattr(value, f.name)) for f in own}
    if isinstance(value, Mapping):
        return {k: dump(type(v), v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        inner = strict.item(hint) if nested(hint) else None
        return [dump(inner or type(x), x) for x in value]
    return value


@cache
def choice_of(hint: Any) -> Choice | None:
    """The choice behind a type of a field, where it is one."""
    if get_origin(hint) is Annotated:
        return next((x for x in get_args(hint) if isinstance(x, Choice)), None)
    return _CHOICES.get(hint)


def is_optional(hint: Any) -> bool:
    """Whether a choice may be null."""
    return type(None) in get_args(get_args(hint)[0]) if get_origin(hint) is Annotated else False
