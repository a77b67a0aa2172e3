"""Compilation is measured once, however programs nest."""

from __future__ import annotations

import jax
import pytest
from jax import monitoring

from dst.train.records.compile_time import CompileTime


def test_what_is_traced_inside_of_another_program_counts_once():
    with CompileTime() as compiling:
        for event, begin, end in (
            ("/jax/core/compile/jaxpr_trace_duration", 11.0, 12.0),
            ("/jax/core/compile/jaxpr_trace_duration", 12.5, 13.0),
            ("/jax/core/compile/jaxpr_trace_duration", 10.0, 14.0),
            ("/jax/core/compile/backend_compile_duration", 14.0, 16.5),
            ("/jax/checkpoint/write", 20.0, 30.0),
        ):
            monitoring.record_event_time_span(event, begin, end)
    monitoring.record_event_time_span("/jax/core/compile/jaxpr_trace_duration", 40.0, 50.0)
    assert compiling.seconds == pytest.approx(6.5)


def test_a_program_that_is_known_costs_no_compilation():
    program = jax.jit(lambda x: x * 3 + 1)
    with CompileTime() as first:
        program(1.0)
    with CompileTime() as second:
        program(2.0)
    assert first.seconds > 0 and second.seconds == 0
