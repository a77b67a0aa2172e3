"""T-SR-STE (Hu et al. 2024): SR-STE with masks that are N:M in both directions."""

from __future__ import annotations

from dst.methods.sr_ste import regularised
from dst.rules.fields import NotNegative
from dst.rules.latent import Latent
from dst.rules.method import method, named
from dst.rules.schedule import Duration, UpdateSchedule, resolve
from dst.rules.structure import TransposableNM

_HINT = "The paper chooses masks every 40 steps."


@named("t-sr-ste", kind="latent weights")
@method
class TSRSTE:
    """Uses ``n`` of every ``m`` dense weights along inputs and outputs; all of them get a gradient.

    The gradient for the dense weights is ``g + decay (1 - mask) w``, as in SR-STE. The mask is the
    best transposable one by ``|w|``, and stays for ``every`` steps. So the products of the forward
    pass and those of the gradients for activations both have N:M weights.

    Args:
      n, m: the pattern; ``m`` divides inputs and outputs. See :class:`dst.TransposableNM`: exact
        for ``m`` up to 4, greedy for larger blocks.
      decay: lambda; the authors' runs of GPT-2 have 6e-5 or 2e-4. 0 is the plain straight-through
        estimator, by which the code of Hubara et al. trains.
      every: steps between choices of the mask.

    Example:
      >>> TSRSTE().rule().fires(39), TSRSTE().rule().fires(40)
      (True, False)

    References:
      Hu et al. 2024, "Accelerating Transformer Pre-training with 2:4 Sparsity" (arXiv 2404.01847);
      masks after Hubara et al. 2021 (arXiv 2102.08124).

    Checked against: huyz2023/2by4-pretrain at 0c75543, sparse/sparse_ops.py (when masks change),
    sparse/decay.py and README.md, by a twin in plain NumPy and a table worked out by hand:
    tests/methods/test_random_cases.py::test_t_sr_ste_equals_its_authors_code and
    tests/methods/test_nm_methods.py. Of the paper, the abstract and the introduction were read.
    Differs from the code: gradients are exact, not sampled to 2:4; the decay enters before the
    optimizer's clipping; every selected leaf, there feed-forward layers; no dense steps at the end.
    """

    n: int = 2
    m: int = 4
    decay: NotNegative = 6e-5
    every: Duration = 40

    def rule(self, steps: int | None = None) -> Latent:
        """The latent rule with durations in steps; percentages need ``steps``."""
        structure = TransposableNM(self.n, self.m)
        every = resolve("every", self.every, steps, _HINT)
        return Latent(
            float(structure.sparsity),
            structure,
            gradient=regularised(self.decay),
            # The mask of the weights before training is the first to be used ``every`` times.
            when=None if every == 1 else UpdateSchedule(every - 1, every),
        )
