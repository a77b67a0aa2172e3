"""What a config may say and probably does not mean."""

from __future__ import annotations

from typing import Any

import jax

from dst import methods, models
from dst.core.registry import Registry
from dst.rules.schedule import resolve
from dst.train import optimizer
from dst.train.config.run import Config
from dst.train.config.schema import Section


def advice(config: Config) -> list[str]:
    """What is allowed and probably not meant: topology steps where weights hardly learn, an
    optimizer that a method does badly with, and convolutions in a loop on CPU."""
    return _of_schedule(config) + _of_optimizer(config) + _of_loops(config)


def _of_loops(config: Config) -> list[str]:
    """XLA's CPU backend has a fast routine for convolutions, and not in loops."""
    if not _fact("convolutions", config.model, models.REGISTRY) or jax.default_backend() != "cpu":
        return []
    loops = {
        "train.steps_per_call": config.train.most_per_call(),
        "optimizer.accumulate": config.optimizer.value.accumulate,
    }
    return [
        f"{key}: convolutions such as those of {config.model.name} are up to ten times slower in a "
        f"loop on CPU. Consider {key}=1."
        for key, times in loops.items()
        if times > 1
    ]


def _of_optimizer(config: Config) -> list[str]:
    """Where an optimizer moves every weight by its learning rate, whatever its gradient is."""
    name, advices = config.optimizer.name, []
    adaptive = _fact("adaptive", config.optimizer, optimizer.REGISTRY)
    trained_with = _fact("trained_with", config.method, methods.REGISTRY)
    if adaptive and trained_with:
        advices.append(
            f"optimizer: the authors of {config.method.name} train with {trained_with}. Under "
            f"{name}, weights that come back at zero move by a whole learning rate a step, and "
            f"noise wins the next ranking. Consider optimizer.name={trained_with}."
        )
    if not (adaptive or config.optimizer.imported) and config.sparsify.scale == "smupar":
        advices.append(
            f"sparsify.scale: smupar is for Adam-like optimizers. Under {name} gradients follow "
            "the density by themselves. Consider sparsify.scale=null."
        )
    return advices


def _fact(fact: str, section: Section, registry: Registry) -> Any:
    """What the mark of a named thing says; None of an imported one."""
    return None if section.imported else registry[section.name].facts.get(fact)


def _of_schedule(config: Config) -> list[str]:
    rule, steps = config.rule(), config.train.steps
    when = rule.when
    if when is None or rule.keeps_inactive_values:
        return []
    rate = optimizer.learning_rate(config.optimizer.value, steps)
    warm = resolve("warmup", config.optimizer.value.warmup, steps, "")
    last = min(when.last, steps - 1)
    advices = []
    if when.first < warm:
        advices.append(
            f"method: topology steps start at step {when.first}, inside the warm-up of {warm} "
            f"steps, where weights have hardly moved. Consider method.start={warm}."
        )
    if rate(last) < 0.01 * config.optimizer.value.learning_rate:
        advices.append(
            f"method: topology steps go on until step {last}, where the learning rate is "
            f"{rate(last):.2g}, below 1 % of its peak: connections grown then cannot learn. "
            "Consider an earlier method.stop."
        )
    return advices
