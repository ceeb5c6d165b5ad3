#!/usr/bin/env bash
# keras==3.15.1, tensorflow-cpu==2.21.0, ai-edge-litert==2.3.0: networks of
# depthwise convolutions with zeros in their 1x1 kernels are converted with
# Optimize.EXPERIMENTAL_SPARSITY. On x86 every file is right, as the zeros are
# unpacked when it is loaded. On 64-bit Arm (the same version's wheel, run by
# Debian 12's QEMU) XNNPACK has sparse convolutions, and takes them if the
# first convolution is padded explicitly, by one on each side. Then
# - depthwise convolutions with strides and padding="same" are padded in the
#   same way, where an even size is to be padded on one side only: outputs are
#   wrong, without an error (unless the first depthwise one is such a one: then
#   it runs by dense kernels);
# - a head of a global pooling with keepdims=True and a 1x1 convolution, as
#   MobileNet's, does not load.
#
# output seen:
#   first explicit, strided explicit, dense head: right on x86, right on Arm
#   first explicit, strided same, dense head: right on x86, wrong on Arm
#   first same, strided same, dense head: right on x86, right on Arm
#   first explicit, strided explicit, 1x1 head: right on x86, not loaded on Arm
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3.11 -m venv venv
venv/bin/pip install -q keras==3.15.1 tensorflow-cpu==2.21.0 \
  ai-edge-litert==2.3.0 numpy==2.4.6
venv/bin/pip download -q --no-deps -d wheels --only-binary=:all: \
  --python-version 3.11 --platform manylinux_2_27_aarch64 \
  --platform manylinux2014_aarch64 ai-edge-litert==2.3.0 numpy==2.4.6 \
  protobuf==7.36.2 flatbuffers==25.12.19 tqdm==4.70.1 \
  backports.strenum==1.2.8 typing_extensions==4.16.0
for wheel in wheels/*.whl; do venv/bin/python -m zipfile -e "$wheel" site; done

# An Arm userland and QEMU, unpacked here and installed nowhere.
mkdir -p lists/partial cache/archives/partial debs root/proc
options=(-qq -o APT::Architectures::=amd64 -o APT::Architectures::=arm64
  -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache"
  -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
apt-get "${options[@]}" update
(cd debs && apt-get "${options[@]}" download qemu-user-static:amd64 \
  {python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib}:arm64 \
  {libc6,libstdc++6,libgcc-s1,zlib1g,libexpat1,libssl3,libffi8}:arm64 \
  {libbz2-1.0,liblzma5,libuuid1,libcrypt1}:arm64)
for package in debs/*arm64.deb; do dpkg-deb -x "$package" root; done
dpkg-deb -x debs/qemu-user-static*amd64.deb qemu
# XNNPACK asks which processor it runs on: not this machine's.
cat >root/proc/cpuinfo <<'CPU'
processor	: 0
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0b
CPU revision	: 1

CPU

cat >make.py <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf
from keras import layers


def network(first, strided, head):
    keras.utils.set_random_seed(0)

    def convolution(x, filters, size, strides, padding):
        if padding == "explicit":
            x, padding = layers.ZeroPadding2D(1)(x), "valid"
        if filters is None:
            x = layers.DepthwiseConv2D(size, strides, padding)(x)
        else:
            x = layers.Conv2D(filters, size, strides, padding)(x)
        return layers.ReLU(6.0)(x)

    inputs = keras.Input((64, 64, 3), batch_size=1)
    x = convolution(inputs, 32, 3, 2, first)
    for filters, strides in ((64, 1), (128, 2)):
        x = convolution(x, None, 3, strides, strided if strides == 2 else "same")
        x = convolution(x, filters, 1, 1, "same")
    if head == "dense":
        x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    else:
        x = layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = layers.Flatten()(layers.Conv2D(10, 1)(x))
    model = keras.Model(inputs, x)
    for layer in model.layers:
        if type(layer) is layers.Conv2D and layer.filters in (64, 128):
            kernel, bias = layer.get_weights()
            small = np.abs(kernel) < np.quantile(np.abs(kernel), 0.8)
            layer.set_weights([np.where(small, 0, 4 * kernel), bias])
    return model


x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
np.save("x.npy", x)
for first, strided, head in (
    ("explicit", "explicit", "dense"),
    ("explicit", "same", "dense"),
    ("same", "same", "dense"),
    ("explicit", "explicit", "1x1"),
):
    name = f"first {first}, strided {strided}, {head} head"
    model = network(first, strided, head)
    np.save(f"{name}.npy", model.predict(x, verbose=0))
    model.export("saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model("saved")
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    with open(f"{name}.tflite", "wb") as file:
        file.write(converter.convert())
PYTHON

cat >try.py <<'PYTHON'
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

name = sys.argv[1]
expected = np.load(f"{name}.npy")
try:
    interpreter = Interpreter(f"{name}.tflite", num_threads=1)
    interpreter.allocate_tensors()
except RuntimeError:
    print("VERDICT not loaded")
    sys.exit()
interpreter.set_tensor(
    interpreter.get_input_details()[0]["index"], np.load("x.npy")
)
interpreter.invoke()
found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
off = np.abs(found - expected).max() / np.abs(expected).max()
print("VERDICT", "right" if off < 1e-3 else "wrong")
PYTHON

TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python make.py >made 2>&1
arm() {
  PYTHONHOME="$folder/root/usr" PYTHONPATH="$folder/site" \
    qemu/usr/bin/qemu-aarch64-static -L "$folder/root" -cpu cortex-a76 \
    root/usr/bin/python3.11 "$@"
}
for file in *.tflite; do
  name=${file%.tflite}
  here=$(venv/bin/python try.py "$name" 2>errors | sed -n 's/^VERDICT //p')
  there=$(arm try.py "$name" 2>errors | sed -n 's/^VERDICT //p')
  echo "$name: $here on x86, $there on Arm"
done | tee output
grep -qx 'first explicit, strided explicit, dense head: right on x86, right on Arm' output
grep -qx 'first explicit, strided same, dense head: right on x86, wrong on Arm' output
grep -qx 'first same, strided same, dense head: right on x86, right on Arm' output
grep -qx 'first explicit, strided explicit, 1x1 head: right on x86, not loaded on Arm' output
