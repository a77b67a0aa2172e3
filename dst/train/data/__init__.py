"""Data sets behind one interface, one file each."""

from __future__ import annotations

from dst.train.config.schema import Section
from dst.train.data import digits, stdlib, tfds
from dst.train.data.dataset import Batch, Dataset, indices

__all__ = ["Batch", "Dataset", "digits", "indices", "load", "stdlib", "tfds"]


def load(section: Section) -> Dataset:
    """The data set that a config names.

    Raises:
      ValueError: a batch larger than the training split, or what a data set itself refuses.
    """
    source, _, name = section.name.partition(":")
    readers = {
        "digits": lambda _: digits.load(),
        "stdlib": stdlib.load,
        "tfds": lambda settings: tfds.load(name, settings),
    }
    found = readers[source](section.value)
    size = section.value.batch_size
    if size > len(found.train):
        raise ValueError(
            f"data.batch_size must be at most {len(found.train)}, the number of training examples, "
            f"got {size}."
        )
    return found
