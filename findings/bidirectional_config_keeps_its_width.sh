#!/usr/bin/env bash
# keras==3.15.1: the config of a Bidirectional layer holds the shapes that its
# two halves were built for, so a layer made from that config takes no other
# width. Every other recurrent layer is made from its config without a shape.
#
# This bites whoever makes a layer like another one for fewer channels, and it
# shows only when the new layer is called.
#
# output seen:
#   LSTM: (2, 5, 4)
#   Bidirectional: cannot be called (TypeError)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/output"
import keras
import numpy as np
from keras import layers

wide = np.ones((2, 5, 6), "float32")
narrow = np.ones((2, 5, 3), "float32")
for layer in (
    layers.LSTM(4, return_sequences=True),
    layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
):
    name = type(layer).__name__
    layer(wide)
    other = type(layer).from_config(layer.get_config())
    try:
        print(f"{name}: {other(narrow).shape}")
    except Exception as error:
        print(f"{name}: cannot be called ({type(error).__name__})")
PYTHON
grep -qx 'LSTM: (2, 5, 4)' "$folder/output"
grep -qx 'Bidirectional: cannot be called (TypeError)' "$folder/output"
