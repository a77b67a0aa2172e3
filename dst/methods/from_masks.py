"""Training at masks that come from elsewhere: from the user, or from the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dst.rules.method import method, named
from dst.rules.rule import Rule, Start
from dst.rules.schedule import Unresolved


@named("from_masks", kind="fixed masks")
@method
class FromMasks:
    """Fixed masks: prune, hand the model over, fine-tune.

    Args:
      masks: bool arrays by leaf path; leaves that are missing are dense. None: the masks that
        the model carries, which ``dst.nnx.Optimizer`` fills in.

    Raises:
      ValueError: no masks, where nothing can supply them.

    Checked against: the masks themselves, which are the specification;
    tests/methods/test_methods.py::test_initial_masks_stay_and_other_leaves_are_dense.
    """

    masks: Mapping[str, Any] | None = None

    def rule(self, steps: int | None = None) -> Rule:
        """The rule that keeps the masks."""
        if not self.masks:
            raise Unresolved(
                "FromMasks has no masks. Give them as FromMasks(masks={'path': bool array}), for "
                "instance from dst.load_masks, or use dst.nnx.Optimizer with a model that carries "
                "masks."
            )
        return Rule(sparsity=0.0, start=Start(masks=self.masks))
