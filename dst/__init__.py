"""Dynamic sparse training in JAX: sparse from the first step to the last.

    tx = dst.sparsify(optax.adamw(1e-3), dst.RigL(sparsity=0.9, every=100, stop=7_500))
    opt_state = tx.init(params)
    params = dst.apply_masks(params, opt_state)

``import dst`` loads what a training loop needs (jax, optax and numpy). ``dst.nnx`` (Flax glue),
``dst.flops`` (cost accounting), one-shot pruning (``dst.prune``, ...) and what reads and writes
files (``dst.save_masks``, ...) are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dst.contrib.chts import CHTs
from dst.contrib.dsr import DSR
from dst.core import lazy
from dst.core.roles import roles
from dst.core.selection import top_k_mask
from dst.engine.admm import admm
from dst.engine.pack import pack, unpack, unpack_state
from dst.engine.projection import apply_masks
from dst.engine.scaling import scale_init
from dst.engine.soft_threshold import soft_threshold
from dst.engine.sparsify import sparsify
from dst.engine.state import SparsifyState
from dst.engine.train_only import most_moved, train_only
from dst.engine.transformation import SparseTransformation
from dst.forms.blocks import block_matmul
from dst.forms.deploy import deploy
from dst.inspect.explain import Explanation, explain
from dst.inspect.invariants import InvariantError, check_invariants
from dst.inspect.metrics import compare, explored, masks, metrics, rows, table
from dst.inspect.sensitivity import EqualIncrease, Sensitivity, sensitivity
from dst.methods import METHODS as _METHODS
from dst.methods.acdc import ACDC
from dst.methods.asp import ASP
from dst.methods.continuous_sparsification import ContinuousSparsification
from dst.methods.dense import Dense
from dst.methods.edge_popup import EdgePopup
from dst.methods.force import FORCE
from dst.methods.from_masks import FromMasks
from dst.methods.gmp import GMP
from dst.methods.granet import GraNet
from dst.methods.grasp import GraSP
from dst.methods.gse import GSE
from dst.methods.hydra import HYDRA
from dst.methods.iterative_snip import iterative_snip
from dst.methods.itop import rigl_itop, set_itop
from dst.methods.journey import journey
from dst.methods.l0 import L0
from dst.methods.mask_decay import MaskDecay
from dst.methods.mask_llm import MaskLLM
from dst.methods.mest import MEST
from dst.methods.mest_resnet import mest_resnet
from dst.methods.movement import Movement
from dst.methods.powerprop import Powerprop
from dst.methods.rigl import RigL
from dst.methods.s_ste import SSTE
from dst.methods.set import SET
from dst.methods.smet import smet
from dst.methods.snfs import SNFS
from dst.methods.snip import SNIP
from dst.methods.snip_ratio import SNIPRatio
from dst.methods.soft_movement import SoftMovement
from dst.methods.spartan import Spartan
from dst.methods.spdf import SPDF
from dst.methods.sr_ste import SRSTE
from dst.methods.srigl import SRigL
from dst.methods.static import Static
from dst.methods.str import STR
from dst.methods.structure_decay import StructureDecay
from dst.methods.synflow import SynFlow
from dst.methods.t_sr_ste import TSRSTE
from dst.methods.top_k_weights import TopKWeights
from dst.methods.top_kast import TopKAST
from dst.methods.trainable_thresholds import TrainableThresholds
from dst.rules.accumulators import Accumulator, Observation
from dst.rules.allocation import Allocation, ErdosRenyi, Global, Uniform
from dst.rules.latent import Latent
from dst.rules.method import method
from dst.rules.ramps import cubic
from dst.rules.rule import HowMany, Reset, Rule, Start, Which
from dst.rules.schedule import UpdateSchedule, constant, cosine, linear
from dst.rules.structure import (
    NM,
    BalancedBlock,
    Block,
    ConstantFanIn,
    InputChannel,
    Layout,
    OutputChannel,
    TransposableNM,
    Unstructured,
)

if TYPE_CHECKING:  # what `__getattr__` loads, for type checkers and editors
    from dst import flops as flops
    from dst import nnx as nnx
    from dst import oneshot as oneshot
    from dst.forms.deltas import Delta as Delta
    from dst.forms.deltas import apply_deltas as apply_deltas
    from dst.forms.deltas import delta as delta
    from dst.forms.deltas import revert_deltas as revert_deltas
    from dst.io.deltas import load_delta as load_delta
    from dst.io.deltas import save_delta as save_delta
    from dst.io.deployed import load_deployed as load_deployed
    from dst.io.deployed import save_deployed as save_deployed
    from dst.io.safetensors import load_masks as load_masks
    from dst.io.safetensors import load_weights as load_weights
    from dst.io.safetensors import save_masks as save_masks
    from dst.io.safetensors import save_weights as save_weights
    from dst.oneshot.alps import ALPS as ALPS
    from dst.oneshot.calibrate import calibrate as calibrate
    from dst.oneshot.cap import CAP as CAP
    from dst.oneshot.dsnot import DSnoT as DSnoT
    from dst.oneshot.ecoflap import ECoFLaP as ECoFLaP
    from dst.oneshot.evopress import EvoPress as EvoPress
    from dst.oneshot.gblm import GBLM as GBLM
    from dst.oneshot.magnitude import Magnitude as Magnitude
    from dst.oneshot.obd import OBD as OBD
    from dst.oneshot.obert import OBERT as OBERT
    from dst.oneshot.obs import OBS as OBS
    from dst.oneshot.owl import OWL as OWL
    from dst.oneshot.prune import prune as prune
    from dst.oneshot.sparsegpt import SparseGPT as SparseGPT
    from dst.oneshot.stages import stages as stages
    from dst.oneshot.structured.groups import channel_groups as channel_groups
    from dst.oneshot.structured.remove import remove as remove
    from dst.oneshot.wanda import Wanda as Wanda
    from dst.oneshot.woodfisher import WoodFisher as WoodFisher

__version__ = "0.1.0"

_LAZY = {
    "ALPS": "oneshot.alps",
    "CAP": "oneshot.cap",
    "DSnoT": "oneshot.dsnot",
    "Delta": "forms.deltas",
    "ECoFLaP": "oneshot.ecoflap",
    "EvoPress": "oneshot.evopress",
    "GBLM": "oneshot.gblm",
    "Magnitude": "oneshot.magnitude",
    "OBD": "oneshot.obd",
    "OBERT": "oneshot.obert",
    "OBS": "oneshot.obs",
    "OWL": "oneshot.owl",
    "SparseGPT": "oneshot.sparsegpt",
    "Wanda": "oneshot.wanda",
    "WoodFisher": "oneshot.woodfisher",
    "apply_deltas": "forms.deltas",
    "calibrate": "oneshot.calibrate",
    "delta": "forms.deltas",
    "load_delta": "io.deltas",
    "channel_groups": "oneshot.structured.groups",
    "load_deployed": "io.deployed",
    "load_masks": "io.safetensors",
    "load_weights": "io.safetensors",
    "prune": "oneshot.prune",
    "revert_deltas": "forms.deltas",
    "save_delta": "io.deltas",
    "remove": "oneshot.structured.remove",
    "save_deployed": "io.deployed",
    "save_masks": "io.safetensors",
    "save_weights": "io.safetensors",
    "stages": "oneshot.stages",
}
_MODULES = ("flops", "nnx", "oneshot")
# Names of earlier versions, which still work.
_RENAMED = {"Cadence": "UpdateSchedule", "Memory": "Accumulator", "Seen": "Observation"}

__all__ = [
    "ACDC",
    "ALPS",
    "ASP",
    "CAP",
    "DSR",
    "FORCE",
    "GMP",
    "GSE",
    "L0",
    "MEST",
    "NM",
    "SET",
    "SNFS",
    "SNIP",
    "SPDF",
    "SRSTE",
    "SSTE",
    "TSRSTE",
    "STR",
    "Accumulator",
    "Allocation",
    "BalancedBlock",
    "Block",
    "CHTs",
    "ConstantFanIn",
    "ContinuousSparsification",
    "DSnoT",
    "Dense",
    "EdgePopup",
    "EqualIncrease",
    "ECoFLaP",
    "ErdosRenyi",
    "EvoPress",
    "Explanation",
    "FromMasks",
    "GBLM",
    "Global",
    "GraNet",
    "GraSP",
    "HYDRA",
    "HowMany",
    "InputChannel",
    "InvariantError",
    "Latent",
    "Layout",
    "Magnitude",
    "MaskDecay",
    "MaskLLM",
    "Movement",
    "OBD",
    "OBERT",
    "OBS",
    "OWL",
    "Observation",
    "OutputChannel",
    "Powerprop",
    "Reset",
    "RigL",
    "Rule",
    "SNIPRatio",
    "SRigL",
    "Sensitivity",
    "SoftMovement",
    "Spartan",
    "SparseGPT",
    "SparseTransformation",
    "SparsifyState",
    "Start",
    "Static",
    "StructureDecay",
    "SynFlow",
    "TopKAST",
    "TopKWeights",
    "TransposableNM",
    "TrainableThresholds",
    "Uniform",
    "Unstructured",
    "UpdateSchedule",
    "Wanda",
    "Which",
    "admm",
    "apply_masks",
    "block_matmul",
    "calibrate",
    "channel_groups",
    "check_invariants",
    "compare",
    "constant",
    "cosine",
    "cubic",
    "deploy",
    "explain",
    "explored",
    "iterative_snip",
    "journey",
    "linear",
    "masks",
    "mest_resnet",
    "method",
    "metrics",
    "most_moved",
    "pack",
    "prune",
    "remove",
    "rigl_itop",
    "roles",
    "rows",
    "scale_init",
    "sensitivity",
    "set_itop",
    "smet",
    "soft_threshold",
    "sparsify",
    "stages",
    "table",
    "top_k_mask",
    "train_only",
    "unpack",
    "unpack_state",
]


def __getattr__(name: str) -> Any:
    import importlib

    for cls in _METHODS.values():  # those that are not imported above
        if name == cls.__name__:
            return cls
    if name in _MODULES:
        return importlib.import_module(f"dst.{name}")
    if name in _RENAMED:
        import warnings

        text = f"dst.{name} is now dst.{_RENAMED[name]}."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return globals()[_RENAMED[name]]
    return lazy.load(__name__, _LAZY, name)
