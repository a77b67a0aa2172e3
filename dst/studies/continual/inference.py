"""Which task an example is of: the entropy of the network with all masks at once says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dst.core.typing import Array, Float, Params, PyTree
from dst.io.safetensors import replaced
from dst.studies.continual.sequence import Tasks, Weights
from dst.train import data, state
from dst.train.data import stream
from dst.train.setup import SetupError

Call = Callable[[Params, Array], Array]


def entropy_slopes(call: Call, used: Sequence[PyTree], inputs: Array) -> Float[Array, "n tasks"]:
    """``dH/da_i`` at ``a = 1/k`` for every input, with ``H`` the entropy of ``softmax(f(x, w(a)))``
    in nats and ``w(a) = sum_i a_i w_i``.

    The task of an input is the one along which its entropy falls most steeply: the argmin.

    Args:
      call: ``f(weights, inputs) -> logits [n, classes]``.
      used: the weights in use of each of the k tasks, zero outside of their masks.
      inputs: ``[n, ...]``.

    Example:
      >>> import jax.numpy as jnp
      >>> used = [jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.1]])]
      >>> slopes = entropy_slopes(lambda w, x: x @ w, used, jnp.ones((1, 1)))
      >>> int(slopes.argmin())
      0

    References: Wortsman et al. 2020 (arXiv 2006.14769), section 3.3, one-shot.
    Checked against: differences of entropies in NumPy, tests/studies/continual/test_frozen.py;
    RAIVNLab/supsup at 3721bcf, adaptors.py (``se_oneshot_minimization``), which takes the argmin
    of the same gradient.
    """

    def entropies(shares: Array) -> Array:
        mixed = jax.tree.map(lambda *w: sum(a * x for a, x in zip(shares, w, strict=True)), *used)
        logs = jax.nn.log_softmax(call(mixed, inputs).astype(jnp.float32))
        return -jnp.sum(jnp.exp(logs) * logs, axis=-1)

    return jax.jacfwd(entropies)(jnp.full(len(used), 1 / len(used)))


class Inference:
    """The accuracy of a study whose test examples do not say their task.

    Args:
      tasks: of the study.

    Raises:
      SetupError: a network with running statistics, which are those of one task only.
    """

    def __init__(self, tasks: Tasks):
        self._tasks = tasks
        dataset = data.load(tasks.config.data)
        model = state.network(tasks.config.model, dataset.shape, dataset.classes, tasks.config.seed)
        if jax.tree.leaves(nnx.state(model, nnx.BatchStat)):
            raise SetupError(
                "continual.strategy.infer mixes the weights of all tasks, but the statistics of "
                "BatchNorm would be those of one task. Choose a network without BatchNorm, or give "
                "the task with infer: false."
            )
        model.eval()
        graph, self._params = nnx.graphdef(model), state.parameters(model)
        carried = state.variables(model)

        def call(params: Params, inputs: Array) -> Array:
            return nnx.merge(graph, params, carried)(inputs)

        self._answer = jax.jit(partial(_answer, call))

    def accuracies(self, number: int, used: Sequence[Weights]) -> tuple[float, float]:
        """Of the test examples of a task.

        Args:
          number: of the task.
          used: the weights in use of each task so far.

        Returns:
          The accuracy, and the share of examples whose task was found.
        """
        params = [replaced(self._params, weights) for weights in used]
        dataset = data.load(self._tasks.run(number, "judge").data)
        right, found, n = 0, 0, len(dataset.test)
        for inputs, labels in stream.testing(dataset):
            answers, guesses = self._answer(params, inputs)
            right += int((np.asarray(answers) == labels).sum())
            found += int((np.asarray(guesses) == number - 1).sum())
        return right / n, found / n


def _answer(call: Call, used: Sequence[Params], inputs: Array) -> tuple[Array, Array]:
    """The class of every input by the weights of the task that it seems to be of; and that task."""
    guesses = jnp.argmin(entropy_slopes(call, used, inputs), axis=-1)
    answers = jnp.stack([jnp.argmax(call(params, inputs), axis=-1) for params in used])
    return jnp.take_along_axis(answers, guesses[None], axis=0)[0], guesses
