#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0: saving a model and loading it again
# changes the name of its input in the SavedModel that `export` writes, if the
# input was not named. Clients of TensorFlow Serving send inputs by this name.
#
# `keras.Input(shape)` makes a layer called input_layer and a tensor called
# keras_tensor. The signature takes the tensor's name; the config of the model
# keeps the layer's, and on loading both get that one. A name that is given,
# `keras.Input(shape, name="x")`, stays.
#
# output seen:
#   as made: keras_tensor
#   saved and loaded: input_layer
#   named, as made: x
#   named, saved and loaded: x
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" -W ignore - <<'PYTHON' | grep -E '^(as made|named|saved)' | tee "$folder/output"
import keras
import tensorflow as tf


def tell(what, model, path):
    model.export(path, verbose=False)
    served = tf.saved_model.load(path).signatures["serving_default"]
    (name,) = served.structured_input_signature[1]
    print(f"\n{what}: {name}")


for what, name in (("", None), ("named, ", "x")):
    x = keras.Input((4,), name=name)
    model = keras.Model(x, keras.layers.Dense(2)(x))
    tell(what + "as made", model, "made")
    model.save("model.keras")
    tell(what + "saved and loaded", keras.saving.load_model("model.keras"), "loaded")
PYTHON
grep -qx 'as made: keras_tensor' "$folder/output"
grep -qx 'saved and loaded: input_layer' "$folder/output"
grep -qx 'named, as made: x' "$folder/output"
grep -qx 'named, saved and loaded: x' "$folder/output"
