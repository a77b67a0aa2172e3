"""How tests compile: it is what small runs cost, and five times less of it this way."""

from __future__ import annotations

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
