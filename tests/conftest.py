"""What every test runs under: eight fake devices, no rank promotion, checked annotations."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

# Before JAX is imported: it reads the environment once.
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
# With XLA's usual order, devices of a grid that share few cores may each wait in another sum.
_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler"
if _ORDER not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += f" {_ORDER}=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# A shell lets what it starts in the background ignore SIGINT, which tests of signals are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest
from hypothesis import settings
from jax._src.lru_cache import LRUCache
from jaxtyping import install_import_hook

import tests.typecheck  # the hook below finds it by name
from tests.quick import QUICK

COMPILED = ".pytest_cache/compiled"

install_import_hook(tests.typecheck.shaped_modules(), f"{tests.typecheck.__name__}.check")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Many tests compile the same program under another function. What one worker has compiled serves
# the others, and the next run: the directory stays (`make clean` removes it).
if not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Lowered programs stay in JAX's caches, and with 1500 of them every further one costs a fifth more.
LOWERED = 700
_lowered = 0


def _count_lowered(event, _, **__):
    global _lowered
    _lowered += event.endswith("jaxpr_to_mlir_module_duration")


jax.monitoring.register_event_duration_secs_listener(_count_lowered)


def pytest_runtest_teardown(item, nextitem):
    """Behind a file of tests, lets go what was compiled, if that is much."""
    global _lowered
    if _lowered > LOWERED and (nextitem is None or nextitem.path != item.path):
        jax.clear_caches()
        gc.collect()
        _lowered = 0


def pytest_collection_finish(session):
    """What was imported stays, so it is not looked through for garbage."""
    gc.collect()
    gc.freeze()


def _put_whole(self, key, value):
    """As ``LRUCache.put``, which another worker, or a killed run, may catch half-written."""
    path = self.path / f"{key}-cache"
    part = self.path / f"{key}.{os.getpid()}.part"
    part.write_bytes(value)
    os.replace(part, path)


LRUCache.put = _put_whole

settings.register_profile("laws", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("laws")


def pytest_configure(config):
    """Compilation is what tests cost here, and most of it is optimisation.

    The slow proofs (`make evidence`) run what users run. XLA reads flags with its first program.
    """
    if config.getoption("markexpr") == "evidence":
        return
    for name, value in QUICK.items():
        if f"--{name}" not in os.environ["XLA_FLAGS"]:
            os.environ["XLA_FLAGS"] += f" --{name}={str(value).lower()}"


@pytest.fixture(scope="module")
def strict_dtypes():
    """No silent dtype promotion: the rule of layers 0 to 2.

    Use as ``pytestmark = pytest.mark.usefixtures("strict_dtypes")``.
    """
    with jax.numpy_dtype_promotion("strict"):
        yield
