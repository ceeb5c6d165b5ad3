#!/usr/bin/env bash
# onnx==1.23.2, onnxruntime==1.32.0, openvino==2026.4.1: one sparse tensor can
# be a `sparse_initializer` of an ONNX graph or the `sparse_value` of a Constant
# node. onnx's checker accepts both and ONNX Runtime computes both. OpenVINO
# reads the Constant, but says of the initializer that there is no such input,
# and the reference evaluator of onnx itself can read neither.
#
# In addition, the checker refuses indices out of order, which ONNX Runtime
# computes correctly.
#
# output seen:
#   sparse_initializer: checker accepts, ONNX Runtime right, OpenVINO RuntimeError, onnx's evaluator ValueError
#   Constant: checker accepts, ONNX Runtime right, OpenVINO right, onnx's evaluator TypeError
#   sparse_initializer, out of order: checker ValidationError, ONNX Runtime right, OpenVINO RuntimeError, onnx's evaluator ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 \
  openvino==2026.4.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - 2>errors <<'PYTHON' | tee output
import numpy as np
import onnx
import onnxruntime as ort
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

generator = np.random.default_rng(0)
kernel = generator.normal(size=(8, 4)).astype("float32")
kernel[generator.random(kernel.shape) < 0.7] = 0
x = generator.normal(size=(3, 8)).astype("float32")


def make(place, order):
    indices = np.flatnonzero(kernel)[::order]
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(kernel.ravel()[indices], "kernel"),
        numpy_helper.from_array(indices, "indices"),
        kernel.shape,
    )
    nodes = [helper.make_node("MatMul", ["x", "kernel"], ["y"])]
    initializers = [sparse]
    if place == "Constant":
        constant = helper.make_node("Constant", [], ["kernel"], sparse_value=sparse)
        nodes, initializers = [constant, *nodes], []
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        sparse_initializer=initializers,
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def checked(model):
    onnx.checker.check_model(model)


def in_onnxruntime(model):
    session = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def in_openvino(model):
    onnx.save(model, "model.onnx")
    core = openvino.Core()
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model("model.onnx", "CPU", precision)(x)[0]


def in_onnx(model):
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def outcome(run, model):
    try:
        found = run(model)
    except Exception as error:
        return type(error).__name__
    if found is None:
        return "accepts"
    return "right" if np.allclose(found, x @ kernel, atol=1e-5) else "wrong"


for what, place, order in (
    ("sparse_initializer", "initializer", 1),
    ("Constant", "Constant", 1),
    ("sparse_initializer, out of order", "initializer", -1),
):
    model = make(place, order)
    print(
        f"{what}: checker {outcome(checked, model)}, "
        f"ONNX Runtime {outcome(in_onnxruntime, model)}, "
        f"OpenVINO {outcome(in_openvino, model)}, "
        f"onnx's evaluator {outcome(in_onnx, model)}"
    )
PYTHON
grep -qx "sparse_initializer: checker accepts, ONNX Runtime right, OpenVINO RuntimeError, onnx's evaluator ValueError" output
grep -qx "Constant: checker accepts, ONNX Runtime right, OpenVINO right, onnx's evaluator TypeError" output
grep -qx "sparse_initializer, out of order: checker ValidationError, ONNX Runtime right, OpenVINO RuntimeError, onnx's evaluator ValueError" output
