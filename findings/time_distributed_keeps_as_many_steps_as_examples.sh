#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0: a SavedModel of TimeDistributed with an
# open number of steps returns as many steps as there are examples in the batch,
# whatever the sequences' length. No error, no warning. `predict` of the same
# model is right, and so is a SavedModel whose number of steps is fixed.
#
# output seen:
#   open, 2 sequences of 5 steps: predict (2, 5, 3), SavedModel (2, 2, 3)
#   open, 1 sequences of 5 steps: predict (1, 5, 3), SavedModel (1, 1, 3)
#   open, 5 sequences of 5 steps: predict (5, 5, 3), SavedModel (5, 5, 3)
#   fixed, 2 sequences of 5 steps: predict (2, 5, 3), SavedModel (2, 5, 3)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep -E '^(open|fixed)' | tee "$folder/output"
import keras
import numpy as np
import tensorflow as tf

for what, steps, batches in (("open", None, (2, 1, 5)), ("fixed", 5, (2,))):
    inputs = keras.Input((steps, 4))
    outputs = keras.layers.TimeDistributed(keras.layers.Dense(3))(inputs)
    model = keras.Model(inputs, outputs)
    model.export(what, verbose=False)
    loaded = tf.saved_model.load(what)
    for batch in batches:
        x = np.ones((batch, 5, 4), "float32")
        print(
            f"\n{what}, {batch} sequences of 5 steps: predict "
            f"{model.predict(x, verbose=0).shape}, SavedModel "
            f"{tuple(loaded.serve(x).shape)}"
        )
PYTHON
grep -qx 'open, 2 sequences of 5 steps: predict (2, 5, 3), SavedModel (2, 2, 3)' "$folder/output"
grep -qx 'open, 1 sequences of 5 steps: predict (1, 5, 3), SavedModel (1, 1, 3)' "$folder/output"
grep -qx 'open, 5 sequences of 5 steps: predict (5, 5, 3), SavedModel (5, 5, 3)' "$folder/output"
grep -qx 'fixed, 2 sequences of 5 steps: predict (2, 5, 3), SavedModel (2, 5, 3)' "$folder/output"
