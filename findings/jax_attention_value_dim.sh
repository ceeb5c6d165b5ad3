#!/usr/bin/env bash
# keras==3.15.1 on jax==0.10.2: a MultiHeadAttention whose values are narrower
# than its keys is built without a word and cannot be called. On TensorFlow the
# same layer works.
#
# `value_dim` is a documented argument of its own. On JAX, Keras hands the
# heads to jax.nn.dot_product_attention, which wants keys and values of one
# width.
#
# output seen:
#   value_dim=3: (2, 5, 12)
#   value_dim=2: cannot be called (TypeError)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/output"
import keras
import numpy as np

x = np.ones((2, 5, 12), "float32")
for width in (3, 2):
    layer = keras.layers.MultiHeadAttention(4, key_dim=3, value_dim=width)
    try:
        print(f"value_dim={width}: {layer(x, x).shape}")
    except Exception as error:
        print(f"value_dim={width}: cannot be called ({type(error).__name__})")
PYTHON
grep -qx 'value_dim=3: (2, 5, 12)' "$folder/output"
grep -qx 'value_dim=2: cannot be called (TypeError)' "$folder/output"
