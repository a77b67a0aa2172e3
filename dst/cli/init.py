"""``dst init``: a config, a sweep and a training loop to start from."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.exits import BAD_INPUT, DONE, fail
from dst.core import files

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Where to write them.")]
# Of the folder `starter`; in their text DIR and NAME stand for those of the user.
FILES = ("README.md", "train.yaml", "sweep.yaml", "loop.py")
SCHEMAS = ("schema/config.json", "schema/sweep.json")


def init(folder: Folder) -> int:
    """Write a config, a sweep and a training loop to start from."""
    from dst.train.records import run_dir

    run_dir.check_path(folder)
    if folder.exists() and not folder.is_dir():
        return fail(f"dst init: expected a directory, found the file {folder}.", BAD_INPUT)
    if taken := [str(folder / x) for x in (*FILES, *SCHEMAS) if (folder / x).exists()]:
        return fail(
            f"dst init: expected a directory without these files, found {', '.join(taken)}. "
            "Name another directory, or move them away.",
            BAD_INPUT,
        )
    _write({name: text(name, folder) for name in (*FILES, *SCHEMAS)}, folder)
    first, second, third = (shlex.quote(str(folder / x)) for x in FILES[1:])
    print(
        f"{folder} has {', '.join(FILES)}.\n\n"
        f"  dst train {first}\n"
        f"  dst sweep {second} --engine vectorised\n"
        f"  python {third}"
    )
    return DONE


def text(name: str, folder: Path) -> str:
    """A file of the starter as it stands in the user's folder.

    Args:
      name: of the file, with its folder.
      folder: the user's, as seen from where the commands will be run.
    """
    found = resources.files("dst.cli").joinpath("starter", *name.split("/")).read_text("utf-8")
    if name in SCHEMAS:
        return found
    found = re.sub(r'"DIR/([\w.]+)"', lambda x: json.dumps(str(folder / x[1])), found)
    found = re.sub(r"\bDIR/([\w.]+)", lambda x: shlex.quote(str(folder / x[1])), found)
    # Names of runs: letters, digits and what their directories may have beside these.
    own = re.sub(r"[^\w.-]+|^\W+", "-", folder.resolve().name).strip("-.")[:80]
    return re.sub(r"\bNAME\b", own or "starter", found)


def _write(contents: dict[str, str], folder: Path) -> None:
    """Writes all files or none, and leaves no folder behind that was not there."""
    made = [x for x in (*reversed(folder.parents), folder, folder / "schema") if not x.exists()]
    try:
        (folder / "schema").mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for name, content in contents.items():
                stack.enter_context(files.whole(folder / name)).write_text(content, "utf-8")
    except BaseException:
        for place in reversed(made):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        raise
