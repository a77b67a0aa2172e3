"""How zeros are stored and skipped."""

from dst.forms.nm import PackedNM, pack_nm, unpack_nm

__all__ = ["PackedNM", "pack_nm", "unpack_nm"]
