#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0: a network that upsamples twice by
# UpSampling2D (nearest) behind a convolution cannot be converted to LiteRT if
# another convolution follows: of the image behind them the converter knows the
# width but not the height, and it rejects that Conv2D as "neither a custom op
# nor a flex op". With one upsampling, with the two directly behind the input,
# with a Dense layer behind them, or with interpolation="bilinear" it is
# converted. Decoders of many tutorials are of this kind.
#
# output seen:
#   convolution, once, convolution: converted
#   twice, convolution: converted
#   convolution, twice, dense: converted
#   convolution, twice bilinear, convolution: converted
#   convolution, twice, convolution: ConverterError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  numpy==2.4.6
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>errors <<'PYTHON' | tee output
import keras
import tensorflow as tf
from keras import layers


def conv():
    return layers.Conv2D(4, 3, padding="same")


def up(interpolation="nearest"):
    return layers.UpSampling2D(2, interpolation=interpolation)


for told, blocks in (
    ("convolution, once, convolution", [conv(), up(), conv()]),
    ("twice, convolution", [up(), up(), conv()]),
    ("convolution, twice, dense", [conv(), up(), up(), layers.Dense(4)]),
    (
        "convolution, twice bilinear, convolution",
        [conv(), up("bilinear"), up("bilinear"), conv()],
    ),
    ("convolution, twice, convolution", [conv(), up(), up(), conv()]),
):
    model = keras.Sequential([keras.Input((8, 8, 3)), *blocks])
    model.export("saved", verbose=False)
    try:
        tf.lite.TFLiteConverter.from_saved_model("saved").convert()
        found = "converted"
    except Exception as error:
        found = type(error).__name__
    print(f"{told}: {found}")
PYTHON
grep -qx 'convolution, once, convolution: converted' output
grep -qx 'twice, convolution: converted' output
grep -qx 'convolution, twice, dense: converted' output
grep -qx 'convolution, twice bilinear, convolution: converted' output
grep -qx 'convolution, twice, convolution: ConverterError' output
