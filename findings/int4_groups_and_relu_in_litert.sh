#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0, ai-edge-litert==2.3.0: a model after
# `model.quantize("int4")`, which rounds in groups of inputs by default, is
# converted to LiteRT and runs without an error. With a ReLU between two dense
# layers its outputs are wrong by more than they are large; with a tanh, with
# nothing, or rounded per output (block_size=None), they are right.
#
# output seen:
#   linear, default groups: right
#   tanh, default groups: right
#   relu, default groups: wrong
#   relu, block_size=None: right
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  ai-edge-litert==2.3.0 numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore - 2>errors <<'PYTHON' | grep -E ': (right|wrong)$' | tee "$folder/output"
import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from keras import layers

x = np.random.default_rng(0).normal(size=(8, 64)).astype("float32")
GROUPS, PER_OUTPUT = "default groups", "block_size=None"
for activation, rounding in (
    ("linear", GROUPS),
    ("tanh", GROUPS),
    ("relu", GROUPS),
    ("relu", PER_OUTPUT),
):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, activation=activation),
            layers.Dense(10),
        ]
    )
    if rounding == GROUPS:
        model.quantize("int4")
    else:
        config = keras.quantizers.Int4QuantizationConfig(block_size=None)
        model.quantize(config=config)
    expected = model.predict(x, verbose=0)
    model.export("model.tflite", format="litert", verbose=False)
    run = Interpreter("model.tflite").get_signature_runner()
    (given,) = run.get_input_details()
    (found,) = run(**{given: x}).values()
    off = np.abs(found - expected).max() / np.abs(expected).max()
    verdict = "right" if off < 0.02 else "wrong"
    print(f"\n{activation}, {rounding}: {verdict}")
PYTHON
grep -qx 'linear, default groups: right' "$folder/output"
grep -qx 'tanh, default groups: right' "$folder/output"
grep -qx 'relu, default groups: wrong' "$folder/output"
grep -qx 'relu, block_size=None: right' "$folder/output"
