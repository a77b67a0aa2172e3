"""Which extra of the distribution brings a module, and messages that say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Other modules are the user's own.
EXTRAS = {
    "flax": "flax",
    **dict.fromkeys(("docstring_parser", "grain", "jinja2", "matplotlib", "orbax"), "train"),
    **dict.fromkeys(("pydantic", "rich", "ruamel", "safetensors", "scipy", "sklearn"), "train"),
    "typer": "train",
    **dict.fromkeys(("PIL", "pyarrow", "tokenizers"), "data"),
    **dict.fromkeys(("array_record", "tensorflow_datasets"), "tfds"),
    "optuna": "sweep",
    "psycopg": "postgres",
    "wandb": "wandb",
}


def package_of(module: str) -> str:
    """What to install for a module, as pip takes it."""
    extra = EXTRAS.get(module.partition(".")[0])
    return f"'dst-jax[{extra}]'" if extra else module


@contextmanager
def required() -> Iterator[None]:
    """Within this context an import that fails names the extra to install.

    Raises:
      ModuleNotFoundError: with the module and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = error.name or ""
        raise ModuleNotFoundError(
            f"this part of dst needs the module {module}, which is not installed: pip install "
            f"{package_of(module)}",
            name=module,
        ) from error
