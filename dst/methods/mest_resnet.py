"""MEST with the profile by which its authors prune ResNet-32: both ends stay dense."""

from __future__ import annotations

from typing import Any

from dst.methods.mest import MEST
from dst.rules.allocation import Uniform
from dst.rules.method import named, preset

# Names of the layers in dst.models. Every 5 of 160 epochs, from the first one on.
MEST_RESNET = {
    "allocation": Uniform(dense=("**/stem/**", "**/out/**")),
    "every": "3.125%",
    "start": 0,
}


@named("mest-resnet", kind="prune and grow")
@preset(MEST, MEST_RESNET)
def mest_resnet(sparsity: float, **changes: Any) -> MEST:
    """MEST with its authors' profile of ResNet-32: the first convolution and the classifier stay
    dense, and the other layers have the sparsity.

    The patterns are those of the networks of ``dst.models``. For other names give
    ``allocation=dst.Uniform(dense=("conv1/*", "fc/*"))``. EM as it is; ``soft_bound=True`` with
    ``extra=(0.05, 0.025, 0.0)`` is EM&S.

    References:
      Yuan et al. 2021, "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the
      Edge" (arXiv 2110.14032).

    Checked against: boone891214/MEST at a428026, profiles/resnet32_cifar/irr/resnet32_0.9.yaml and
    scripts/resnet32/EM;
    tests/methods/test_goldens.py::test_mest_with_its_authors_profile_leaves_both_ends_dense.
    Differs from the code: convolutions of shortcuts are sparse, where a network has them.
    """
    return MEST(sparsity=sparsity, **{**MEST_RESNET, **changes})
