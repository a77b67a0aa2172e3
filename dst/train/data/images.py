"""A folder of images for each class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dst.core.registry import named
from dst.train.data import files, labelled, pictures
from dst.train.data.dataset import Dataset

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
ENDINGS |= {".ppm", ".pgm"}


@named("images:*", path=True)
@dataclass(frozen=True)
class Images(pictures.Shaped, labelled.Labelled):
    """Images in a folder for each class: `images:flowers` with `flowers/rose/1.jpg` and so on.

    Where the folder has `train` and `test` (or `val`), each with folders of classes, they are the
    splits. What is above 1 GB is decoded where it is needed, by threads.
    """

    def __post_init__(self) -> None:
        labelled.Labelled.__post_init__(self)
        pictures.Shaped.__post_init__(self)

    def load(self, name: str, kind: str | None = None) -> Dataset:
        """The data set ``images:folder``."""
        return load(name.removeprefix("images:"), self)


def load(path: str, settings: Images) -> Dataset:
    """The data set of a folder.

    Raises:
      ValueError: no such folder, a class without images, other files than the settings pin, or what
        :func:`dst.train.data.pictures.dataset` refuses.
    """
    root = Path(path)
    parts = [_classes(folder) for folder in _splits(root)]
    sha256 = files.names_and_sizes(root, (file for found, _ in parts for file in found))
    files.check(sha256, settings.sha256, path)
    made = pictures.dataset(parts, settings, "class", path)
    return replace(made, identity={**made.identity, "sha256": sha256})


def _splits(root: Path) -> list[Path]:
    if not root.is_dir():
        raise ValueError(files.missing("a folder of images", str(root)))
    if not (root / "train").is_dir():
        return [root]
    held_out = [x for name in ("test", "val") if (x := root / name).is_dir()]
    if not held_out:
        raise ValueError(f"data: expected a folder 'test' or 'val' beside {root / 'train'}.")
    return [root / "train", held_out[0]]


def _classes(folder: Path) -> tuple[list[Path], np.ndarray]:
    """Images and the names of their classes, sorted."""
    names = sorted(x.name for x in folder.iterdir() if x.is_dir() and x.name[0] != ".")
    if not names:
        raise ValueError(
            f"data: expected a folder of images for each class in {folder}, found none."
        )
    images: list[Path] = []
    classes: list[str] = []
    for name in names:
        own = sorted(x for x in (folder / name).rglob("*") if _is_image(x))
        if not own:
            raise ValueError(
                f"data: expected images of class {name!r} in {folder / name}, found none; they end "
                f"with one of {sorted(ENDINGS)}."
            )
        images += own
        classes += [name] * len(own)
    return images, np.array(classes)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and path.name[0] != "." and path.is_file()
