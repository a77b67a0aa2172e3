"""Data sets of TensorFlow Datasets by name, without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dst.core import checks
from dst.core.registry import named
from dst.train.data import augment, statistics
from dst.train.data.dataset import Dataset
from dst.train.data.examples import THREADS, Examples, at_once, fits, in_memory

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by number of channels


@named("tfds:*")
@dataclass(frozen=True)
class Tfds:
    """A prepared data set of TensorFlow Datasets: `tfds:mnist`, `tfds:name/config:1.0.0`.

    It must have an input and a label, as TFDS's `supervised_keys` name them: images of 8 bits, or
    tensors of numbers, and classes. It must have been prepared as array_record files.

    Attributes:
      batch_size: examples per optimizer update, over all micro-batches and devices.
      train: the split to train on, as TFDS writes it: `train`, `train[:90%]`, `train+extra`.
      test: the split to evaluate on.
      version: of the data set; null: that of the name, or the newest that is prepared. The saved
        config has it.
      directory: where data sets are prepared, or the directory of this one; null: TFDS's own,
        `~/tensorflow_datasets` or `$TFDS_DATA_DIR`.
      augment: of training images: none; cifar: 4 pixels of margin, a random crop, a random flip;
        imagenet: a random resized crop to 224 x 224 and a random flip, for evaluation 7/8 of the
        shorter side in the middle.
      mean: per channel (last axis), subtracted from the inputs; of images as numbers in [0, 1].
        Null: that of the training split, computed where the split is at most 1 GB; for imagenet
        the usual one. The saved config has it.
      std: per channel, by which inputs are divided then; null: likewise.
    """

    batch_size: int = 128
    train: str = "train"
    test: str = "test"
    version: str | None = None
    directory: str | None = None
    augment: Literal["none", "cifar", "imagenet"] = "none"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, at_least=1)
        statistics.check_given(self.mean, self.std)

    def load(self, name: str) -> Dataset:
        """The data set ``tfds:name``."""
        return load(name.removeprefix("tfds:"), self)


@dataclass(frozen=True)
class Records:
    """Examples on disk.

    Attributes:
      records: TFDS's data source, with images as they are encoded.
      keys: of input and label.
      mode: Pillow's name of the images' channels; None: inputs are no images. Grey or CMYK files
        in a data set of RGB images, as ImageNet has them, are converted.
    """

    records: Any
    keys: tuple[str, str]
    mode: str | None

    def __len__(self) -> int:
        return len(self.records)

    def read(self, chosen: np.ndarray) -> tuple[Sequence[np.ndarray], np.ndarray]:
        """The examples of these indices; images may differ in size."""
        records = self.records.__getitems__(chosen.tolist())
        inputs = [self._decoded(record[self.keys[0]]) for record in records]
        return inputs, np.array([record[self.keys[1]] for record in records], np.int32)

    def _decoded(self, value: Any) -> np.ndarray:
        if self.mode is None:
            return value
        from PIL import Image

        with Image.open(BytesIO(value)) as image:
            pixels = np.asarray(image.convert(self.mode))
        return pixels.reshape(*pixels.shape[:2], -1)


def load(name: str, settings: Tfds) -> Dataset:
    """A data set that is prepared on this machine.

    Args:
      name: as TFDS writes it, with config and version if need be.
      settings: how it is read.

    Raises:
      ValueError: it is not prepared, its files cannot be read at random places, it has no such
        split, no images and classes, or images of sizes that do not fit the augmentation.
    """
    import tensorflow_datasets as tfds

    if settings.version:
        name = f"{name.partition(':')[0]}:{settings.version}"
    builder = _builder(name, settings)
    features, keys = builder.info.features, _keys(name, builder.info)
    image, classes = features[keys[0]], features[keys[1]].num_classes
    augmentation = augment.AUGMENTATIONS[settings.augment]
    is_image = isinstance(image, tfds.features.Image)
    shape = _shape(name, image, is_image, settings.augment)

    mode = _MODES[image.shape[-1]] if is_image else None
    decoders = {keys[0]: tfds.decode.SkipDecoding()} if is_image else None

    def opened(field: str, split: str) -> Records:
        try:
            return Records(builder.as_data_source(split, decoders=decoders), keys, mode)
        except NotImplementedError as error:
            why = (
                f"those in {builder.data_dir} are {builder.info.file_format.value}, which cannot "
                "be read at random places: name another data.directory, or remove them"
            )
            raise ValueError(_unprepared(name, settings, why)) from error
        except ValueError as error:
            raise ValueError(f"data.{field}: {error}") from error

    splits = {field: opened(field, getattr(settings, field)) for field in ("train", "test")}
    size = np.dtype(image.np_dtype).itemsize
    whole = None not in image.shape and settings.augment != "imagenet"
    most = max(map(len, splits.values()))
    held = whole and fits(most, shape, size)
    arrays = {field: in_memory(x) for field, x in splits.items()} if held else {}

    scale = 255.0 if is_image else 1.0
    mean, std = settings.mean, settings.std
    if mean is None or std is None:
        if settings.augment == "imagenet":
            mean, std = augment.IMAGENET_MEAN, augment.IMAGENET_STD
        elif held:
            mean, std = statistics.moments(arrays["train"].inputs, scale)
        else:
            gigabytes = most * np.prod(shape) * size / 2**30
            raise ValueError(
                f"data.mean and data.std must be given for tfds:{name}: its largest split takes "
                f"{gigabytes:.1f} GB, and only what is at most 1 GB is read to compute "
                "them."
            )
    statistics.check_length(mean, std, shape[-1], str(shape))
    examples = {
        field: Examples(source, augmentation, np.array(mean) * scale, np.array(std) * scale)
        for field, source in (arrays or splits).items()
    }
    directory = settings.directory and str(Path(settings.directory).expanduser().absolute())
    return Dataset(
        train=examples["train"],
        test=examples["test"],
        shape=shape,
        classes=classes,
        at_once=at_once(shape),
        threads=0 if held else THREADS,
        identity={
            "version": str(builder.version),
            "directory": directory,
            "mean": tuple(mean),
            "std": tuple(std),
        },
    )


def _builder(name: str, settings: Tfds) -> Any:
    """What reads a prepared data set: from its files alone, so that its own code, which may need
    TensorFlow or the network, is not run."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    where = settings.directory and Path(settings.directory).expanduser()
    if where and (where / "features.json").is_file():
        builder = tfds.builder_from_directory(where)
        short, _, version = name.partition(":")
        if short.partition("/")[0] != builder.name or version not in ("", str(builder.version)):
            raise ValueError(
                f"data.directory: expected the data set {name} in {where}, found "
                f"{builder.name}:{builder.version}."
            )
        return builder
    try:
        return builder_from_files(name, **({"data_dir": str(where)} if where else {}))
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_unprepared(name, settings, "there is none")) from error


def _unprepared(name: str, settings: Tfds, why: str) -> str:
    from tensorflow_datasets.core import file_adapters
    from tensorflow_datasets.core.utils import file_utils

    given = settings.directory and str(Path(settings.directory).expanduser())
    where = [str(path) for path in file_utils.list_data_dirs(given_data_dir=given)]
    random = file_adapters.FileFormat.ARRAY_RECORD.value
    target = f", data_dir={given!r}" if given else ""
    command = (
        f"import tensorflow_datasets as tfds; "
        f"tfds.builder({name!r}{target}).download_and_prepare(file_format={random!r})"
    )
    return (
        f"data: expected the data set {name!r} as {random} files in {' or '.join(where)}, but "
        f'{why}. To prepare it once, where there is a network:\n  python -c "{command}"\n'
        "Data sets whose images TFDS encodes itself, such as mnist and cifar10, need TensorFlow "
        "for that; training does not."
    )


def _keys(name: str, info: Any) -> tuple[str, str]:
    """The names of input and label."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys or ("image", "label")
    features = [info.features[key] if key in info.features else None for key in keys]
    if (
        len(features) != 2
        or None in features
        or not isinstance(features[1], tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"data: tfds:{name} must have an input and a class label, as supervised_keys or as "
            f"'image' and 'label', found {dict(info.features)}."
        )
    return keys


def _shape(name: str, image: Any, is_image: bool, how: str) -> tuple[int, ...]:
    """The shape of an input of the network."""
    shape = tuple(image.shape)
    numbers = np.dtype(image.np_dtype)
    if is_image and (numbers != np.uint8 or shape[-1] not in _MODES):
        raise ValueError(
            f"data: images must have 8 bits and {list(_MODES)} channels, tfds:{name} has "
            f"{numbers} and {shape[-1]}."
        )
    if how != "none" and not (is_image and (how != "imagenet" or shape[-1] == 3)):
        raise ValueError(
            f"data.augment must be none for the inputs of tfds:{name}, {numbers} {shape}, got "
            f"{how!r}."
        )
    if side := augment.AUGMENTATIONS[how].side:
        return (side, side, shape[-1])
    if not shape or None in shape:
        raise ValueError(
            f"data.augment must be imagenet for tfds:{name}, whose images differ in size "
            f"({shape}), got {how!r}."
        )
    return shape
