"""Names for annotations: arrays, pytrees, and the shapes of jaxtyping where it is installed.

jaxtyping documents shapes and dtypes and is checked while testing; the library itself
must not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num, UInt8
else:
    try:
        from jaxtyping import Array, Bool, Float, Int, Num, UInt8
    except ImportError:
        from jax import Array

        class _AnyShape:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = Num = UInt8 = _AnyShape

# Python's types cannot describe a pytree: these say what one is for.
PyTree: TypeAlias = Any  # containers of arrays, nested in any way
Params: TypeAlias = PyTree  # the parameters of a model
Tree = TypeVar("Tree")  # a pytree, of which a function returns one of the same type
OptState: TypeAlias = PyTree  # the state of an Optax transformation
Batch: TypeAlias = PyTree  # what a loss is computed on
ArrayLike: TypeAlias = Any  # what numpy.asarray reads: arrays of NumPy and of JAX

__all__ = [
    "Array",
    "ArrayLike",
    "Batch",
    "Bool",
    "Float",
    "Int",
    "Num",
    "OptState",
    "Params",
    "PyTree",
    "Tree",
    "UInt8",
]
