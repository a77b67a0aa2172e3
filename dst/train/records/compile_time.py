"""How much of a run's time JAX spends on tracing and compiling programs."""

from __future__ import annotations

from threading import Lock

from jax import monitoring

_EVENTS = "/jax/core/compile/"  # tracing, lowering, and XLA's compilation


class CompileTime:
    """Seconds in which programs are traced, lowered or compiled, while the context is entered.

    Several contexts may overlap. Each counts everything that this process compiles.

    Example:
      >>> import jax
      >>> with CompileTime() as compiling:
      ...     _ = jax.jit(lambda x: x + 1)(1.0)
      >>> 0 < compiling.seconds < 60
      True
    """

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._lock = Lock()  # several threads may compile

    def __enter__(self) -> CompileTime:
        monitoring.register_event_time_span_listener(self._add)
        return self

    def __exit__(self, *_: object) -> None:
        monitoring.unregister_event_time_span_listener(self._add)

    @property
    def seconds(self) -> float:
        """So far."""
        return sum(end - begin for begin, end in self._spans)

    def _add(self, event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if not event.startswith(_EVENTS):
            return
        begin, end = start_time, end_time
        with self._lock:
            # A function that is traced inside of another has ended before: its time counts once.
            while self._spans and self._spans[-1][0] >= begin:
                self._spans.pop()
            begin = max(begin, self._spans[-1][1]) if self._spans else begin
            if end > begin:
                self._spans.append((begin, end))
