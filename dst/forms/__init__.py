"""How zeros are stored and skipped."""

from dst.forms.condensed import CondensedMatrix, pack_condensed
from dst.forms.csr import CSRMatrix, pack_csr
from dst.forms.matrix import DenseMatrix, Matrix
from dst.forms.nm import NMMatrix, PackedNM, pack_nm, unpack_nm

__all__ = [
    "CSRMatrix",
    "CondensedMatrix",
    "DenseMatrix",
    "Matrix",
    "NMMatrix",
    "PackedNM",
    "pack_condensed",
    "pack_csr",
    "pack_nm",
    "unpack_nm",
]
