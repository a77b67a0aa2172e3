"""Data sets behind one interface, one file each.

A data set of your own is a function that gives a :class:`Dataset`, of arrays or of a source with
``len(source)`` and ``source[i] -> (input, label)``, as Grain has them::

    # spirals.py, beside the config: data: {import: "spirals:Spirals", noise: 0.1}
    def Spirals(*, noise: float = 0.1) -> Dataset:
        x, y = ...  # float32 [n, 2], int32 [n]
        return from_arrays(train=(x[200:], y[200:]), test=(x[:200], y[:200]))

The config may always say ``batch_size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from dst.core.registry import Entry, Registry
from dst.rules.fields import Positive
from dst.train.config.schema import Section
from dst.train.data.dataset import Batch, Dataset, from_arrays, from_sources, indices

__all__ = [
    "REGISTRY",
    "Batch",
    "Dataset",
    "from_arrays",
    "from_sources",
    "indices",
    "load",
]

REGISTRY = Registry("data set", "dst.train.data")


@dataclass(frozen=True)
class Shared:
    """What the config of every data set may say.

    Attributes:
      batch_size: examples per optimizer update, over all micro-batches and devices.
    """

    batch_size: Positive = 128


def _entry(name: str) -> Entry:
    return next(entry for entry in REGISTRY.values() if fnmatchcase(name, entry.name))


def load(section: Section, kind: str | None = None) -> Dataset:
    """The data set that a config names.

    Args:
      section: of the config.
      kind: of labels, where its objective needs a certain one; files can have them in several ways.

    Raises:
      ValueError: something else than a data set, a batch larger than the training split, or what a
        data set itself refuses.
    """
    thing = section.make()
    if section.imported:
        dataset = thing
    elif _entry(section.name).facts.get("path"):
        dataset = thing.load(section.name, kind)
    else:
        dataset = thing.load(section.name)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"data.import: {section.name} must give a dst.train.data.Dataset, for example by "
            f"from_arrays, got {type(dataset).__name__}."
        )
    size = section.value.batch_size
    if size > len(dataset.train):
        raise ValueError(
            f"data.batch_size must be at most {len(dataset.train)}, the number of training "
            f"examples, got {size}."
        )
    return dataset
