#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0, onnxruntime==1.32.0: a convolution with
# groups is exported to ONNX without an error, and no runtime can load the file:
# in the place of the convolution it has a StatefulPartitionedCall, which is
# TensorFlow's. (On the CPU Keras compiles such a convolution by XLA, in a
# function that the converter does not look into.) A convolution without groups
# and a depthwise one are exported and right, and with groups the same model is
# right as a SavedModel.
#
# output seen:
#   groups=1, onnx: Conv, right
#   depthwise, onnx: Conv, right
#   groups=2, SavedModel: right
#   groups=2, onnx: StatefulPartitionedCall, InvalidGraph
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>errors <<'PYTHON' | grep -E '^(groups|depthwise)' | tee output
import keras
import numpy as np
import onnx
import onnxruntime as ort
import tensorflow as tf
from keras import layers

x = np.random.default_rng(0).normal(size=(3, 9, 9, 4)).astype("float32")


def compare(found, expected):
    return "right" if np.allclose(found, expected, atol=1e-4) else "wrong"


for what, layer in (
    ("groups=1", layers.Conv2D(6, 3)),
    ("depthwise", layers.DepthwiseConv2D(3)),
    ("groups=2", layers.Conv2D(6, 3, groups=2)),
):
    model = keras.Sequential([keras.Input((9, 9, 4)), layer])
    expected = model.predict(x, verbose=0)
    if what == "groups=2":
        model.export("saved", verbose=False)
        loaded = tf.saved_model.load("saved")
        print(f"\n{what}, SavedModel: {compare(loaded.serve(x), expected)}")
    model.export("model.onnx", format="onnx", verbose=False)
    types = {node.op_type for node in onnx.load("model.onnx").graph.node}
    (shown,) = types & {"Conv", "StatefulPartitionedCall"}
    try:
        session = ort.InferenceSession(
            "model.onnx", providers=["CPUExecutionProvider"]
        )
        (name,) = (taken.name for taken in session.get_inputs())
        found = compare(session.run(None, {name: x})[0], expected)
    except Exception as error:
        found = type(error).__name__
    print(f"\n{what}, onnx: {shown}, {found}")
PYTHON
grep -qx 'groups=1, onnx: Conv, right' output
grep -qx 'depthwise, onnx: Conv, right' output
grep -qx 'groups=2, SavedModel: right' output
grep -qx 'groups=2, onnx: StatefulPartitionedCall, InvalidGraph' output
