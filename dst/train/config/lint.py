"""What a config may say and probably does not mean."""

from __future__ import annotations

from dst.rules.schedule import resolve
from dst.train import optimizer
from dst.train.config.run import Config


def advice(config: Config) -> list[str]:
    """What is allowed and probably not meant: topology steps where weights hardly learn."""
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
