"""``@method``: a frozen dataclass whose fields are a paper's hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import (
    Any,
    NamedTuple,
    Protocol,
    TypeVar,
    dataclass_transform,
    get_type_hints,
    runtime_checkable,
)

from dst.core.registry import named
from dst.rules import fields
from dst.rules.latent import Latent
from dst.rules.rule import Rule
from dst.rules.schedule import NeverFires, Unresolved

__all__ = ["Method", "Preset", "method", "named", "preset"]

_SOME_LENGTH = 1_000_000  # optimizer steps

T = TypeVar("T")


@runtime_checkable
class Method(Protocol):
    """What :func:`dst.sparsify` takes: hyper-parameters that give a rule."""

    def rule(self, steps: int | None = None) -> Rule | Latent:
        """The rule; ``steps``: length of training in optimizer updates, where it is known."""


@dataclass_transform(frozen_default=True)
def method(cls: type[T]) -> type[T]:
    """Turns a class with fields and ``rule(steps=None)`` into a method.

    The class becomes a frozen dataclass. On creation its fields are checked against their
    annotations, and the rule is built once, which checks what concerns several fields. Whether
    topology ever changes is checked when the length of training is known.

    Example:
      >>> import dst
      >>> from dst.rules.fields import Sparsity
      >>> @method
      ... class HalfStatic:
      ...     sparsity: Sparsity = 0.5
      ...
      ...     def rule(self, steps=None):
      ...         return dst.Rule(self.sparsity)
      >>> HalfStatic().rule().sparsity
      0.5
    """

    def __post_init__(self: Any) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            fields.check(name, hint, getattr(self, name))
        try:
            self.rule()
        except Unresolved:  # everything else can be checked at some length of training
            with suppress(Unresolved, NeverFires):
                self.rule(_SOME_LENGTH)

    def fires(self: Any, count: int, steps: int | None = None) -> bool:
        """Whether topology changes at the update that follows ``count`` updates.

        Args:
          count: optimizer updates done.
          steps: length of training, where durations are percentages.
        """
        return self.rule(steps).fires(count)

    cls.__post_init__, cls.fires = __post_init__, fires  # type: ignore[attr-defined]
    return dataclass(frozen=True)(cls)


class Preset(NamedTuple):
    """A paper's settings of another paper's method.

    Attributes:
      make: ``make(sparsity, **changes) ->`` the method; its docstring describes the settings.
      method: the class that it returns.
      settings: the fields that differ from those of the class.
    """

    make: Callable[..., Any]
    method: type
    settings: Mapping[str, Any]


def preset(method: type, settings: Mapping[str, Any]) -> Callable[[T], T]:
    """Marks a function as a preset of a method; see :class:`Preset`."""

    def mark(make: T) -> T:
        make.preset = Preset(make, method, settings)  # type: ignore[attr-defined, arg-type]
        return make

    return mark


@cache
def _hints(cls: Any) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:  # a name that only a type checker sees: its fields stay unchecked
        return {}
