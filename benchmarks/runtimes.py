"""Whether other runtimes skip zeros: ONNX Runtime, MKL and SciPy, on one matrix of 1024 x 4096.

    pip install onnx onnxruntime sparse-dot-mkl mkl
    MKL_RT=$(find .venv -name 'libmkl_rt.so*') python benchmarks/runtimes.py

It needs packages that `dst` does not depend on, so `make bench` leaves it out. ONNX Runtime
multiplies the same matrix three times: dense, with zeros, and with zeros as a sparse initializer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy import sparse
from sparse_dot_mkl import dot_product_mkl
from timing import interleaved, ratio

INPUTS, OUTPUTS = 1024, 4096


def session(weight: np.ndarray, compressed: bool) -> tuple[Any, int]:
    """A session of ONNX Runtime that multiplies by the matrix, and the bytes of its file."""
    initializers: dict[str, Any] = {"initializer": [numpy_helper.from_array(weight, "w")]}
    if compressed:
        places = np.flatnonzero(weight)
        values = numpy_helper.from_array(weight.reshape(-1)[places], "w")
        indices = numpy_helper.from_array(places, "w_indices")
        found = helper.make_sparse_tensor(values, indices, list(weight.shape))
        initializers = {"sparse_initializer": [found]}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUTPUTS])],
        **initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    file = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    return onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"]), len(file)


def main() -> None:
    """Prints one table."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else 60
    random = np.random.default_rng(0)
    weight = random.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
    for sparsity in (0.9, 0.95, 0.99):
        pruned = np.where(random.random(weight.shape) < sparsity, np.float32(0), weight)
        sessions = {
            "dense": session(weight, False),
            "ONNX Runtime, zeros": session(pruned, False),
            "ONNX Runtime, sparse initializer": session(pruned, True),
        }
        rows = sparse.csr_array(pruned.T)
        for batch in (1, 256):
            x = random.normal(size=(batch, INPUTS)).astype(np.float32)
            columns = x[0] if batch == 1 else np.ascontiguousarray(x.T)
            runs: dict[str, Callable[[], Any]] = {
                name: partial(run.run, None, {"x": x}) for name, (run, _) in sessions.items()
            }
            runs["SciPy, CSR"] = partial(rows.__matmul__, columns)
            runs["MKL, CSR"] = partial(dot_product_mkl, rows, columns)
            s = interleaved(runs, rounds if batch == 1 else max(rounds // 4, 5))
            for name in list(runs)[1:]:
                gain = ratio(s, "dense", name)
                print(f"{f'{sparsity:.0%}, batch {batch}, dense / {name}':<62} {gain:.2f}")
        size = {name: bytes_ for name, (_, bytes_) in sessions.items()}
        share = size["ONNX Runtime, sparse initializer"] / size["dense"]
        label = f"{sparsity:.0%}, bytes of the file, ONNX sparse initializer / dense"
        print(f"{label:<62} {share:.3f}")


if __name__ == "__main__":
    main()
