"""The memory that pruning takes in a fresh process."""

import json
import subprocess
import sys

import pytest

from keras_bimp._src.exporting.other_python import environment

PROGRAM = """
import json, pathlib, re, sys
import keras
import keras_bimp
from keras import layers

def status(key):
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(key + r":\\s+(\\d+)", text)[1])

def build(width, count):
    return keras_bimp.wrap(keras.Sequential([
        keras.Input((width,)), *[layers.Dense(width) for _ in range(count)]
    ]))

keras_bimp.prune(build(8, 2), 0.5)  # Loads everything that is loaded once.
width, count, allocation, collapses = json.loads(sys.argv[1])
model = build(width, count)
if collapses:
    for kernel in model.trainable_variables[:4:2]:
        kernel.assign(1e-6 * kernel)
size = sum(4 * kernel.size for kernel in model.wrapper.kernels)
pathlib.Path("/proc/self/clear_refs").write_text("5")  # The peak is now.
before = status("VmRSS")
pruning = keras_bimp.prune(model, 0.9, allocation=allocation)
assert bool(pruning.protected) == collapses
print(json.dumps((status("VmHWM") - before) / size))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("width", "count", "allocation", "collapses"),
    [
        (1024, 32, "global", False),
        (1024, 32, "global", True),
        (1024, 32, "uniform", False),
    ],
)
def test_a_pruning_takes_little_beside_the_model(
    width, count, allocation, collapses
):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            json.dumps([width, count, allocation, collapses]),
        ],
        env=environment(KERAS_BACKEND="tensorflow"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) < 0.6
