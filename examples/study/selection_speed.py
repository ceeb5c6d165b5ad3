"""Times global selection against one partition, and against other libraries.

On random kernels of ResNet-50's shapes, single-threaded, in interleaved rounds:
`keras_bimp.select`, which returns masks; `np.partition` of concatenated
magnitudes, plus writing masks from the result; and, in separate processes,
torch's `global_unstructured` and the mask update of
tensorflow-model-optimization, if `--torch_python` and `--tfmot_python` are
given. Each round times all of them once.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import pathlib
import statistics
import subprocess
import time
import tracemalloc

import numpy as np
from absl import app
from absl import flags
from selection_peers import kernels_like_resnet50

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "width", ["13", "32", "64", "128"], "Channels of the first kernel."
)
flags.DEFINE_integer("rounds", 7, "Number of rounds.")
flags.DEFINE_float("sparsity", 0.9, "Fraction of weights to prune.")
flags.DEFINE_string("torch_python", None, "Python that has torch.")
flags.DEFINE_string("tfmot_python", None, "Python that has tfmot.")


class Peer:
    """Another library, in a separate process."""

    def __init__(self, name, python, width):
        script = pathlib.Path(__file__).with_name("selection_peers.py")
        self._process = subprocess.Popen(
            [python, script, name, width, str(FLAGS.sparsity)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{python} cannot time {name}")

    def __call__(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self):
        self._process.stdin.close()
        self._process.wait()


def timed(function):
    def seconds():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return seconds


def selection(kernels):
    return keras_bimp.select(kernels, FLAGS.sparsity)


def partition(magnitudes):
    at = round(FLAGS.sparsity * len(magnitudes))
    return magnitudes >= np.partition(magnitudes, at)[at]


def peak_memory(function):
    """Returns the peak bytes that a call allocates, including its result."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(width):
    kernels = kernels_like_resnet50(int(width))
    magnitudes = np.concatenate([np.abs(k).ravel() for k in kernels])
    contestants = {
        "select": timed(lambda: selection(kernels)),
        "partition": timed(lambda: partition(magnitudes)),
    }
    ours = np.concatenate([mask.ravel() for mask in selection(kernels)])
    # Masks are the same unless magnitudes are equal at the threshold.
    differing = np.count_nonzero(ours != partition(magnitudes))
    memory = peak_memory(lambda: selection(kernels)) / magnitudes.nbytes
    peers = {}
    for name in ("torch", "tfmot"):
        python = FLAGS[f"{name}_python"].value
        if python:
            peers[name] = Peer(name, python, width)
    contestants.update(peers)
    rounds = [
        {name: seconds() for name, seconds in contestants.items()}
        for _ in range(FLAGS.rounds)
    ]
    for peer in peers.values():
        peer.stop()
    return {
        "weights": len(magnitudes),
        "differing": differing,
        "memory": memory,
        "rounds": rounds,
    }


def spread(values, form):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def main(_):
    print(
        f"Median [min, max] of {FLAGS.rounds} rounds, sparsity "
        f"{FLAGS.sparsity:g}. Ratios are within a round.\n"
    )
    print(
        "| weights | select, ns per weight | select / partition | peak memory "
        "/ weights | torch / select | tfmot / select | masks differ |"
    )
    print("|---|---|---|---|---|---|---|")
    for width in FLAGS.width:
        result = measure(width)
        rounds, total = result["rounds"], result["weights"]
        cells = [
            f"{total:,}",
            spread([1e9 * r["select"] / total for r in rounds], ".2f"),
            spread([r["select"] / r["partition"] for r in rounds], ".2f"),
            f"{result['memory']:.2f}",
        ]
        for name in ("torch", "tfmot"):
            ratios = [r[name] / r["select"] for r in rounds if name in r]
            cells.append(spread(ratios, ".0f") if ratios else "-")
        cells.append(f"{result['differing']}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
