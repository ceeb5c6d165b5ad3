#!/usr/bin/env bash
# keras==3.15.1, openvino==2026.4.1, tensorflow-cpu==2.21.0: a model after
# `model.quantize("int8")` is exported to OpenVINO and runs without an error,
# and its outputs are wrong by as much as they are large. The float model, and
# the same quantized model as a SavedModel, are right.
#
# output seen:
#   float: right
#   int8 as SavedModel: right
#   int8: wrong
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  openvino==2026.4.1 numpy==2.4.6 scipy==1.17.1
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep -E ': (right|wrong)$' | tee "$folder/output"
import keras
import numpy as np
import openvino
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(8, 512)).astype("float32")
model = keras.Sequential(
    [
        keras.Input((512,)),
        layers.Dense(512, activation="relu"),
        layers.Dense(512, activation="relu"),
        layers.Dense(10),
    ]
)


def tell(name, found, expected):
    off = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"\n{name}: {'right' if off < 0.02 else 'wrong'}")


def in_openvino(path):
    model.export(path, format="openvino", verbose=False)
    return openvino.Core().compile_model(path, "CPU")(x)[0]


tell("float", in_openvino("float.xml"), model.predict(x, verbose=0))
model.quantize("int8")
expected = model.predict(x, verbose=0)
model.export("saved", verbose=False)
loaded = tf.saved_model.load("saved")  # Its variables die with it.
tell("int8 as SavedModel", loaded.serve(x).numpy(), expected)
tell("int8", in_openvino("int8.xml"), expected)
PYTHON
grep -qx 'float: right' "$folder/output"
grep -qx 'int8 as SavedModel: right' "$folder/output"
grep -qx 'int8: wrong' "$folder/output"
