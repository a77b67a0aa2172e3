"""Batches as a stream: Grain reads ahead, and knows the position.

The batch of a count of updates is a pure function of the config's seed and that count, whatever
the number of processes and devices. So a position is one integer, which checkpoints hold.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dst.core.typing import Array
from dst.train.data.dataset import Batch, Dataset, indices

_AHEAD = 1  # batches that wait on the devices

Placed = Array | np.ndarray


@dataclass(frozen=True)
class Source:
    """Training batches by the count of updates before them, as a source that Grain reads.

    Grain could shuffle and batch single examples. Its shuffle takes 60 microseconds for each, so
    4.8 ms for a batch of 64 digits, whose training step takes 1 ms (2 CPU cores); an epoch that
    NumPy shuffles at once and that is read in whole batches takes 0.01 ms a batch.

    Attributes:
      dataset: whose training examples are read.
      seed: of the order and of augmentation.
      size: examples per batch, over all processes.
      rows: int ``[n]``: which places of every batch are read.
      together: batches in an element. Reading one takes Grain 0.1 ms, whatever is in it.
    """

    dataset: Dataset
    seed: int
    size: int
    rows: np.ndarray
    together: int = 1

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, n: int) -> list[Batch]:
        return [self.batch(n * self.together + i) for i in range(self.together)]

    def batch(self, count: int) -> Batch:
        """The batch after ``count`` others."""
        train, chance = self.dataset.train, None
        chosen = indices(len(train), self.size, self.seed, count)
        if train.chances:
            # Drawn for all rows, so that an example is augmented alike whichever process reads it.
            rng = np.random.default_rng([self.seed, count, 1])
            chance = rng.random((self.size, train.chances))[self.rows]
        return train.take(chosen[self.rows], chance)


def places(held: Iterable[Any], shape: tuple[int, int]) -> tuple[int, np.ndarray]:
    """What a process reads of a batch: of every micro-batch, a range of examples.

    Args:
      held: the parts of the batch that its devices hold, as tuples of slices.
      shape: micro-batches, examples in each.

    Returns:
      Where the range begins, and the places in the whole batch, int ``[n]``.
    """
    bounds = [place[1].indices(shape[1])[:2] for place in held]
    first, last = min(a for a, _ in bounds), max(b for _, b in bounds)
    return first, np.arange(shape[0] * shape[1]).reshape(shape)[:, first:last].ravel()


class Batches(Iterator[tuple[Placed, Placed]]):
    """The endless stream of training batches, inputs and labels, on the devices.

    On a single CPU device they stay NumPy's arrays: there is no transfer that could be started
    early, and a jitted function takes them in with a quarter of the work of putting them first
    (0.1 ms a step instead of 0.4, where a step on digits takes 1).

    Args:
      dataset: whose training examples are read.
      seed: of the order and of augmentation.
      shape: micro-batches, examples in each (over all processes): the leading axes of a batch.
      sharding: of a batch. A process reads what its own devices hold.
      count: batches before the first one: the whole position of the stream.
      most: batches that :meth:`take` gives at once. Above 1 none waits on the devices: those of the
        next call are put there while the program works on the last ones.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        shape: tuple[int, int],
        sharding: NamedSharding,
        count: int,
        most: int = 1,
    ):
        self._shape, self._sharding, self._most = shape, sharding, most
        self._together = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
        devices: Any = sharding.device_set
        held = sharding.addressable_devices_indices_map(shape).values()
        self._first, rows = places(held, shape)
        self._as_is = {d.platform for d in devices} == {"cpu"} and len(devices) == 1
        source = Source(dataset, seed, shape[0] * shape[1], rows, most)
        self._read = iter(_read(grain.MapDataset.source(source), dataset.threads))
        self._read.set_state({"next_index": count // most})
        self._rows = chain.from_iterable(self._read)
        for _ in range(count % most):
            next(self._rows)
        self._ahead: deque[tuple[Placed, Placed]] = deque()

    def __next__(self) -> tuple[Placed, Placed]:
        # Putting returns at once, so that it needs no thread. As a stage of Grain's pipeline it
        # would cost 0.1 ms more, for Grain's measurements of the arrays.
        while len(self._ahead) <= (_AHEAD if self._most == 1 else 0):
            batch = next(self._rows)
            self._ahead.append((self._put(batch[0]), self._put(batch[1])))
        return self._ahead.popleft()

    def take(self, n: int) -> tuple[Placed, Placed]:
        """The next ``n`` batches, stacked ``[most, ...]``; those after the n-th are arbitrary."""
        read = list(islice(self._rows, n))
        inputs, labels = zip(*read, *read[:1] * (self._most - n), strict=True)
        return self._put(np.stack(inputs), self._most), self._put(np.stack(labels), self._most)

    def close(self) -> None:
        """Ends the reading threads."""
        self._read.close()

    def _put(self, rows: np.ndarray, *lead: int) -> Placed:
        """What a process reads of batches ``[*lead, n, ...]``, as ``[*lead, *shape, ...]``."""
        axes, (parts, size) = len(lead), self._shape
        own = rows.reshape(*lead, parts, -1, *rows.shape[axes + 1 :])
        if self._as_is:
            return own

        def part(place: Any) -> np.ndarray:
            *before, examples = place[: axes + 2]
            start, stop, _ = examples.indices(size)
            return own[(*before, slice(start - self._first, stop - self._first))]

        # A third of the time of device_put, and the same on one process and on many.
        return jax.make_array_from_callback(
            (*lead, parts, size, *rows.shape[axes + 1 :]),
            self._together if lead else self._sharding,
            part,
            dtype=rows.dtype,
        )


def testing(dataset: Dataset) -> Iterator[Batch]:
    """All test examples, always in the same order."""
    n, size = len(dataset.test), dataset.at_once

    def take(start: int) -> Batch:
        return dataset.test.take(np.arange(start, min(start + size, n)))

    return iter(_read(grain.MapDataset.range(0, n, size).map(take), dataset.threads))


def _read(batches: grain.MapDataset, threads: int) -> grain.IterDataset:
    """With threads that read ahead, a batch each. Grain's worker processes fail in programs that
    do not parse their flags by absl."""
    return batches.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    )
