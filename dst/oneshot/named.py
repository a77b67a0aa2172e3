"""Methods, allocations and structures as text: ``sparsegpt(mask=wanda)``, ``owl``, ``2:4``.

Text is read, never run: names are those of the registry, arguments are names or plain literals.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from dst.core import checks
from dst.core.registry import Registry
from dst.core.text import shown
from dst.oneshot.matrix import OneShot
from dst.oneshot.network import DataAllocator
from dst.rules.structure import NM, Structure, Unstructured

REGISTRY = Registry("one-shot method", "dst.oneshot")


def method(text: str) -> OneShot:
    """A one-shot method.

    Args:
      text: its name, with arguments where they differ from the defaults.

    Raises:
      ValueError: another form, an unknown name, or an argument that does not fit.

    Example:
      >>> method("sparsegpt(mask=wanda, block=64)")
      SparseGPT(block=64, dampening=0.01, mask=Wanda())
    """
    name, arguments = _call(text, "method")
    made: OneShot = _made(name, arguments, "method")
    return made


def allocation(text: str) -> str | DataAllocator:
    """An allocation: a name that :func:`dst.prune` knows, or ``owl``, ``ecoflap`` or ``evopress``.

    The latter take arguments.

    Raises:
      ValueError: another form, or an argument that does not fit.
    """
    name, arguments = _call(text, "allocation")
    if name not in [x for x, entry in REGISTRY.items() if entry.facts]:
        return text
    made: DataAllocator = _built(name, arguments, "allocation")
    return made


def structure(text: str | None) -> Structure:
    """``N:M``, or None for single weights.

    Raises:
      ValueError: another form.
    """
    if text is None:
        return Unstructured()
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if not found:
        raise ValueError(f"structure must be N:M, such as 2:4, got {shown(text)}.")
    return NM(int(found[1]), int(found[2]))


def _call(text: str, what: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of ``name`` or ``name(key=value)``."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        node = None
    if isinstance(node, ast.Name):
        return node.id, {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise ValueError(
            f"{what} must be a name, with or without arguments, such as wanda or "
            f"sparsegpt(block=64), got {shown(text)}."
        )
    if node.args or any(k.arg is None for k in node.keywords):
        raise ValueError(f"{what}: arguments must be named, such as block=64, got {shown(text)}.")
    values = {str(k.arg): _value(k.value, f"{what}: {k.arg}") for k in node.keywords}
    return node.func.id, values


def _value(node: ast.expr, what: str) -> Any:
    """A literal; a name or a call is another method."""
    if isinstance(node, (ast.Name, ast.Call)):
        return method(ast.unparse(node))
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        text = shown(ast.unparse(node))
        raise ValueError(f"{what} must be a number, a text or a method, got {text}.") from error


def _made(name: str, arguments: dict[str, Any], what: str) -> Any:
    checks.one_of(what, name, [x for x, entry in REGISTRY.items() if not entry.facts])
    return _built(name, arguments, what)


def _built(name: str, arguments: dict[str, Any], what: str) -> Any:
    try:
        return REGISTRY[name].load()(**arguments)
    except TypeError as error:
        raise ValueError(f"{what}: {name} has other arguments: {error}.") from error
