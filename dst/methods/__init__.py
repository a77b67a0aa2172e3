"""One file per published method."""

from dst.methods.acdc import ACDC
from dst.methods.asp import ASP
from dst.methods.dense import Dense
from dst.methods.edge_popup import EdgePopup
from dst.methods.from_masks import FromMasks
from dst.methods.gmp import GMP
from dst.methods.granet import GraNet
from dst.methods.itop import rigl_itop, set_itop
from dst.methods.journey import journey
from dst.methods.mask_decay import MaskDecay
from dst.methods.mest import MEST
from dst.methods.rigl import RigL
from dst.methods.set import SET
from dst.methods.smet import smet
from dst.methods.snfs import SNFS
from dst.methods.snip import SNIP
from dst.methods.spdf import SPDF
from dst.methods.sr_ste import SRSTE
from dst.methods.srigl import SRigL
from dst.methods.static import Static
from dst.methods.structure_decay import StructureDecay
from dst.methods.top_k_weights import TopKWeights
from dst.methods.top_kast import TopKAST

# Names in configs. A preset is a function that returns a method: a paper's settings.
METHODS = {
    "dense": Dense,
    "static": Static,
    "from_masks": FromMasks,
    "set": SET,
    "rigl": RigL,
    "snfs": SNFS,
    "mest": MEST,
    "srigl": SRigL,
    "gmp": GMP,
    "granet": GraNet,
    "ac-dc": ACDC,
    "snip": SNIP,
    "asp": ASP,
    "spdf": SPDF,
    "top-kast": TopKAST,
    "top-k-weights": TopKWeights,
    "sr-ste": SRSTE,
    "mask-decay": MaskDecay,
    "structure-decay": StructureDecay,
    "edge-popup": EdgePopup,
}
PRESETS = {"set-itop": set_itop, "rigl-itop": rigl_itop, "smet": smet, "journey": journey}

__all__ = [
    "ACDC",
    "ASP",
    "GMP",
    "MEST",
    "METHODS",
    "PRESETS",
    "SET",
    "SNFS",
    "SNIP",
    "SPDF",
    "SRSTE",
    "Dense",
    "EdgePopup",
    "FromMasks",
    "GraNet",
    "MaskDecay",
    "RigL",
    "SRigL",
    "Static",
    "StructureDecay",
    "TopKAST",
    "TopKWeights",
    "journey",
    "rigl_itop",
    "set_itop",
    "smet",
]
