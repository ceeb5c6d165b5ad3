"""Times the pruning step of other libraries, each in its environment.

`selection_speed.py` starts this file with the Python of an environment that
has the library, and writes a line to it for each round.
"""

import sys
import time

import numpy as np


def kernels_like_resnet50(width):
    """Returns random kernels of ResNet-50's shapes.

    `width` is the number of channels of the first kernel: 64 gives 25.5
    million weights.
    """
    shapes = [(7, 7, 3, width)]
    channels = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for block in range(blocks):
            if not block:
                shapes.append((1, 1, channels, 4 * inner))
            shapes += [
                (1, 1, channels, inner),
                (3, 3, inner, inner),
                (1, 1, inner, 4 * inner),
            ]
            channels = 4 * inner
    shapes.append((channels, 1000))
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape, np.float32)
        * np.float32((2 / np.prod(shape[:-1])) ** 0.5)
        for shape in shapes
    ]


def prepare_torch(kernels, sparsity):
    """Prepares `torch.nn.utils.prune.global_unstructured`."""
    import torch
    from torch.nn.utils import prune

    torch.set_num_threads(1)

    def round_():
        holders = []
        for kernel in kernels:
            holder = torch.nn.Module()
            holder.weight = torch.nn.Parameter(torch.from_numpy(kernel))
            holders.append((holder, "weight"))
        start = time.perf_counter()
        prune.global_unstructured(
            holders, pruning_method=prune.L1Unstructured, amount=sparsity
        )
        return time.perf_counter() - start

    return round_


def prepare_tfmot(kernels, sparsity):
    """Prepares the mask update of `tfmot.sparsity.keras`."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        pruning_impl,
    )

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    pruning = pruning_impl.Pruning(
        training_step_fn=lambda: tf.constant(0, tf.int64),
        pruning_vars=[
            (tf.Variable(k), tf.Variable(tf.ones(k.shape)), tf.Variable(0.0))
            for k in kernels
        ],
        pruning_schedule=tfmot.sparsity.keras.ConstantSparsity(sparsity, 0),
        block_size=(1, 1),
        block_pooling_type="AVG",
    )
    step = tf.function(lambda: pruning.conditional_mask_update())

    def round_():
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    return round_


if __name__ == "__main__":
    _, peer, width, sparsity = sys.argv
    prepare = {"torch": prepare_torch, "tfmot": prepare_tfmot}[peer]
    timed_round = prepare(kernels_like_resnet50(int(width)), float(sparsity))
    timed_round()  # Warm-up.
    print("ready", flush=True)
    for _ in sys.stdin:
        print(timed_round(), flush=True)
