#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0: a fully convolutional network whose
# image size is left open (`keras.Input((None, None, 3))`) predicts, trains and
# is saved as .keras. With a bilinear UpSampling2D in it, `model.export` ends in
# TensorFlow's OperatorNotAllowedInGraphError, which names neither the layer nor
# the size; with `interpolation="nearest"`, or a fixed size, it is exported.
#
# output seen:
#   nearest, open size: predicts, exported
#   bilinear, fixed size: predicts, exported
#   bilinear, open size: predicts, OperatorNotAllowedInGraphError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>errors <<'PYTHON' | tee output
import keras
import numpy as np
from keras import layers

for interpolation, size in (("nearest", None), ("bilinear", 8), ("bilinear", None)):
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same"),
            layers.UpSampling2D(2, interpolation=interpolation),
        ]
    )
    assert model.predict(np.ones((1, 8, 8, 3)), verbose=0).shape == (1, 8, 8, 4)
    try:
        model.export("saved", verbose=False)
        found = "exported"
    except Exception as error:
        found = type(error).__name__
    shown = "open size" if size is None else "fixed size"
    print(f"{interpolation}, {shown}: predicts, {found}")
PYTHON
grep -qx 'nearest, open size: predicts, exported' output
grep -qx 'bilinear, fixed size: predicts, exported' output
grep -qx 'bilinear, open size: predicts, OperatorNotAllowedInGraphError' output
