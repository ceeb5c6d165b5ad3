#!/usr/bin/env bash
# onnx==1.23.2, onnxruntime==1.32.0: a model whose int8 weights are turned into
# floats and multiplied with float inputs (DequantizeLinear, then MatMul) is not
# run as written. By default the two become one MatMulNBits, which rounds the
# inputs to 8 bits as well, in blocks of inputs that share a scale.
#
# So a large input spoils its neighbours, even where all of its own weights were
# pruned: the exact product does not depend on it. Fewer optimizations, or the
# session option `session.qdq_matmulnbits_accuracy_level` set to 1, keep floats.
#
# Largest error of the outputs, relative to the largest output.
# output seen:
#   pruned input 0, default: MatMulNBits, error 0.005
#   pruned input 1000, default: MatMulNBits, error 0.633
#   pruned input 1000, accuracy level 1: MatMulNBits, error 0.000
#   pruned input 1000, basic optimizations: DequantizeLinear MatMul, error 0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python - 2>errors <<'PYTHON' | tee output
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

generator = np.random.default_rng(0)
weights = (generator.normal(size=(64, 16)) * 10).astype("int8")
weights[0] = 0
x = generator.normal(size=(3, 64)).astype("float32")
graph = helper.make_graph(
    [
        helper.make_node("DequantizeLinear", ["weights", "scale"], ["kernel"]),
        helper.make_node("MatMul", ["x", "kernel"], ["y"]),
    ],
    "product",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 16])],
    [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.float32(0.5), "scale"),
    ],
)
model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
)
onnx.checker.check_model(model)


def tell(value, what, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL, **entries):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = "as_run.onnx"
    for name, entry in entries.items():
        options.add_session_config_entry(f"session.{name}", entry)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x[:, 0] = value
    found = session.run(None, {"x": x})[0]
    expected = x @ (weights * 0.5)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    nodes = " ".join(n.op_type for n in onnx.load("as_run.onnx").graph.node)
    print(f"pruned input {value}, {what}: {nodes}, error {error:.3f}")


tell(0, "default")
tell(1000, "default")
tell(1000, "accuracy level 1", qdq_matmulnbits_accuracy_level="1")
tell(
    1000, "basic optimizations", ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
)
PYTHON
grep -qE '^pruned input 0, default: MatMulNBits, error 0\.00[1-9]$' output
grep -qE '^pruned input 1000, default: MatMulNBits, error 0\.[3-9]' output
grep -qx 'pruned input 1000, accuracy level 1: MatMulNBits, error 0.000' output
grep -qx 'pruned input 1000, basic optimizations: DequantizeLinear MatMul, error 0.000' output
