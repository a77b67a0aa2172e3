"""What the name of a leaf says about it, where nothing else does."""

from __future__ import annotations

import re

# Path segments that mark leaves which sparse training leaves dense by default, whatever
# their rank: lookup tables, positions, depthwise kernels, normalisation.
_DENSE = (
    (
        "embedding",
        re.compile(r"embed|^wte$|^(\w+_)?emb$|^(\w+_)?tok(en)?s?(_table)?$|vocab|codebook", re.I),
    ),
    (
        "position",
        re.compile(
            r"^pos(ition(s|al)?)?(_?(table|ids?|enc\w*))?$|^wpe$|^cls$|^registers?$|^rel(ative)?_pos",
            re.I,
        ),
    ),
    ("state space", re.compile(r"^A_log$|^dt_bias$")),
    ("adapter", re.compile(r"^lora_|_lora$", re.I)),
    ("bias", re.compile(r"^(\w+_)?bias$")),  # of several heads it has two dimensions
    # One window per channel: few weights, each of which all positions need.
    ("depthwise", re.compile(r"depthwise|^(conv_?)?dw(_?\d+)?$", re.IGNORECASE)),
    ("norm", re.compile(r"norm|^(ln|bn|rms)(_?\d+|_[a-z]+)?$", re.IGNORECASE)),
)


# Last segments that say that a leaf is the kernel of a layer.
_KERNEL = re.compile(
    r"kernel|weight|matrix|proj|conv|dense|linear|^[A-Za-z]{1,2}\d*$|^w_?\w{1,6}$|^\d+$", re.I
)


def dense_kind(path: str) -> str | None:
    """What a leaf is that stays dense by default, by the segments of its path; None for others."""
    for kind, expression in _DENSE:
        if any(expression.search(segment) for segment in path.split("/")):
            return kind
    return None


def is_kernel(path: str) -> bool:
    """Whether the last segment of a path is a usual name of a kernel."""
    return _KERNEL.search(path.rpartition("/")[2]) is not None
