"""Small data sets that TFDS itself prepares, for tests; without TensorFlow."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SHARDS = 3
SIZES = {"train": 50, "test": 20, "validation": 20}


def pictures(split: str, shape: tuple[int, int, int] = (8, 8, 3)) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes that depend on each other, so that a network has something to learn."""
    rng = np.random.default_rng(list(split.encode()))
    labels = np.arange(SIZES[split]) % 4
    images = rng.integers(0, 60, (SIZES[split], *shape), np.uint8)
    images[:, :, : shape[1] // 2] += (48 * labels[:, None, None, None]).astype(np.uint8)
    return images, labels


def ragged(split: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Images that differ in size; every fifth is grey."""
    rng = np.random.default_rng(list(split.encode()))
    n = 12
    sizes = rng.integers(20, 60, (n, 2))
    images = [rng.integers(0, 256, (*s, 3) if i % 5 else s, np.uint8) for i, s in enumerate(sizes)]
    return images, np.arange(n) % 4


def tensors(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of different scales, the third number always the same."""
    rng = np.random.default_rng(list(split.encode()))
    vectors = rng.normal([1, -20, 7], [1, 5, 0], (SIZES[split], 3)).astype(np.float32)
    return vectors, np.arange(SIZES[split]) % 3


def _png(image: np.ndarray) -> io.BytesIO:
    """TFDS encodes arrays by TensorFlow, and takes encoded files as they are."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG")
    file.seek(0)
    return file


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.2.0")

    def __init__(self, name: str, features: Any, examples: Any, keys: Any, **kwargs: Any):
        self.name, self._of, self._examples, self._keys = name, features, examples, keys
        self.VERSION = kwargs.get("version") or self.VERSION
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self._of)
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=self._keys)

    def _split_generators(self, manager: Any) -> Any:
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split: str) -> Any:
        for i, (value, label) in enumerate(zip(*self._examples(split), strict=True)):
            yield i, dict(zip(self._of, (value, int(label)), strict=True))


def prepare(
    where: Path,
    name: str,
    kind: str = "pictures",
    *,
    shape: tuple[int, int, int] = (8, 8, 3),
    classes: int = 4,
    label: str = "label",
    version: str | None = None,
) -> None:
    """Prepares a data set.

    Args:
      where: the directory of all data sets.
      name: of this one.
      kind: the function above that makes its arrays.
      shape: of ``pictures``.
      classes: how many its labels could have.
      label: what the supervised pair names as the label.
      version: of the data set; None: 1.2.0.
    """
    first: dict[str, tuple[str, Any, Any]] = {
        "pictures": ("image", tfds.features.Image(shape=shape), partial(pictures, shape=shape)),
        "ragged": ("image", tfds.features.Image(shape=(None, None, 3)), ragged),
        "tensors": ("vector", tfds.features.Tensor(shape=(3,), dtype=np.float32), tensors),
    }
    key, feature, arrays = first[kind]

    def examples(split: str) -> Any:
        values, labels = arrays(split)
        return (values if kind == "tensors" else map(_png, values)), labels

    features = {key: feature, "label": tfds.features.ClassLabel(num_classes=classes)}
    pair = (key, label)
    builder = _Builder(name, features, examples, pair, data_dir=where, version=version)
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(num_shards=SHARDS),
    )
