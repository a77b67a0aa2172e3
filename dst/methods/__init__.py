"""One file per published method."""

from dst.methods.dense import Dense
from dst.methods.from_masks import FromMasks
from dst.methods.gmp import GMP
from dst.methods.rigl import RigL, rigl_itop
from dst.methods.set import SET, set_itop
from dst.methods.static import Static

# Names in configs. A preset is a function that returns a method: a paper's settings.
METHODS = {
    "dense": Dense,
    "static": Static,
    "from_masks": FromMasks,
    "set": SET,
    "rigl": RigL,
    "gmp": GMP,
}
PRESETS = {"set-itop": set_itop, "rigl-itop": rigl_itop}

__all__ = [
    "GMP",
    "METHODS",
    "PRESETS",
    "SET",
    "Dense",
    "FromMasks",
    "RigL",
    "Static",
    "rigl_itop",
    "set_itop",
]
