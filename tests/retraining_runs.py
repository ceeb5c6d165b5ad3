"""Callbacks that watch a run."""

import keras
import numpy as np
import pytest
from helpers import kernels_and_masks
from helpers import masked
from keras import ops

from keras_bimp._src import slots


class Watch(keras.callbacks.Callback):
    """Checks that pruned entries are 0 at each boundary; keeps the logs."""

    def __init__(self, starts=None):
        super().__init__()
        self.starts = starts or {}
        self.logs = []
        self.batch_logs = 0

    def check(self):
        layer = masked(self.model)
        kernels = [kernel.variable for kernel in layer.kernels]
        for (kernel, mask), pairs in zip(
            kernels_and_masks(self.model),
            slots.slots(self.model.optimizer, kernels),
            strict=True,
        ):
            assert np.isfinite(kernel).all()
            assert (kernel[~mask] == 0).all()
            for slot, start in pairs:
                value = ops.convert_to_numpy(slot.value)
                expected = next(
                    (s for n, s in self.starts.items() if n in slot.name), 0
                )
                if expected is None:
                    continue
                assert start == pytest.approx(expected)
                np.testing.assert_array_equal(
                    value[~mask], np.float32(expected), err_msg=slot.name
                )
        self.slots = len(pairs)

    def on_epoch_begin(self, epoch, logs=None):
        self.check()

    def on_train_batch_end(self, batch, logs=None):
        self.check()

    def on_epoch_end(self, epoch, logs=None):
        self.check()
        self.logs.append(dict(logs))
