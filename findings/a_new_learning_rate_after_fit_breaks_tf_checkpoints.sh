#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0: after a `fit`, an optimizer that is
# given a learning-rate schedule (in the place of a number, by the property that
# Keras offers) can no longer be saved by tf.train.Checkpoint: the setter takes
# the number's variable out of a list that TensorFlow tracks. Given another
# number it can, and so it can if the schedule was there from the beginning.
#
# output seen:
#   another number: saved
#   a schedule from the beginning: saved
#   a schedule after fit: ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep -E '^(another|a schedule)' | tee "$folder/output"
import keras
import numpy as np
import tensorflow as tf

schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
for what, before, after in (
    ("another number", 0.1, 0.05),
    ("a schedule from the beginning", schedule, None),
    ("a schedule after fit", 0.1, schedule),
):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(before)
    model.compile(optimizer, "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    if after is not None:
        optimizer.learning_rate = after
    try:
        tf.train.Checkpoint(model=model, optimizer=optimizer).save("saved")
        print(f"\n{what}: saved")
    except ValueError as error:
        assert "list wrapper" in str(error)
        print(f"\n{what}: ValueError")
PYTHON
grep -qx 'another number: saved' "$folder/output"
grep -qx 'a schedule from the beginning: saved' "$folder/output"
grep -qx 'a schedule after fit: ValueError' "$folder/output"
