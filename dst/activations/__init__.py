"""Sparse activations of language models: thresholds, top-k, ReLUs, and how many zeros they make.

:func:`apply` puts a method into a :class:`dst.models.Decoder`. :func:`measure` counts the zeros
that enter its matrices. :func:`remove` takes the method away again::

    model = dst.models.load("SmolLM2-135M")
    dst.activations.apply(model, dst.activations.CATS(sparsity=0.5), batches)
    dst.activations.measure(model, held_out)["down"]  # the share of zeros in each layer
"""

from __future__ import annotations

from dst.core import extras
from dst.core.registry import Registry

extras.check("flax")

from dst.activations.apply import Method as Method  # noqa: E402
from dst.activations.apply import apply as apply  # noqa: E402
from dst.activations.apply import measure as measure  # noqa: E402
from dst.activations.calibration import Calibration as Calibration  # noqa: E402
from dst.activations.cats import CATS as CATS  # noqa: E402
from dst.activations.cett import CETT as CETT  # noqa: E402
from dst.activations.cett import PPL as PPL  # noqa: E402
from dst.activations.cett import cett as cett  # noqa: E402
from dst.activations.chess import CHESS as CHESS  # noqa: E402
from dst.activations.prosparse import FATReLU as FATReLU  # noqa: E402
from dst.activations.prosparse import Progressive as Progressive  # noqa: E402
from dst.activations.prosparse import with_l1 as with_l1  # noqa: E402
from dst.activations.relufication import Relufication as Relufication  # noqa: E402
from dst.activations.sites import Replacement as Replacement  # noqa: E402
from dst.activations.sites import remove as remove  # noqa: E402
from dst.activations.teal import TEAL as TEAL  # noqa: E402
from dst.activations.threshold import Threshold as Threshold  # noqa: E402
from dst.activations.threshold import Thresholded as Thresholded  # noqa: E402
from dst.activations.threshold import ThresholdedInput as ThresholdedInput  # noqa: E402
from dst.activations.top_k import TopK as TopK  # noqa: E402
from dst.activations.top_k import percentages as percentages  # noqa: E402

REGISTRY = Registry("activations", "dst.activations")  # methods with a target sparsity

__all__ = [
    "CATS",
    "CETT",
    "CHESS",
    "PPL",
    "TEAL",
    "Calibration",
    "FATReLU",
    "Method",
    "Progressive",
    "Relufication",
    "Replacement",
    "Threshold",
    "Thresholded",
    "ThresholdedInput",
    "TopK",
    "apply",
    "cett",
    "measure",
    "percentages",
    "remove",
    "with_l1",
]
