"""Array annotations of jaxtyping where it is installed, and plain stand-ins where it is not.

jaxtyping documents shapes and dtypes and is checked while testing; the library itself
must not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

PyTree = Any  # nested containers whose leaves are arrays, or one value for each array

__all__ = ["Array", "Bool", "Float", "Int", "Num", "PyTree", "UInt8"]
