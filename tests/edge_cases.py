"""Runs at the edge of what makes sense, and their bits."""

import keras
import numpy as np
from helpers import STEPS
from helpers import array
from helpers import data
from helpers import kernels_and_masks
from helpers import masked
from helpers import wrapped

import keras_bimp


def ours(target_sparsity, dense_epochs=1, **kwargs):
    return keras_bimp.callbacks(
        target_sparsity,
        **{"dense_epochs": dense_epochs, "verbose": 0, **kwargs},
    )


def with_built_optimizer(model=None):
    """Builds a model whose optimizer has slots."""
    model = wrapped() if model is None else model
    model.optimizer.build(model.trainable_variables)
    for slot in model.optimizer.variables:
        if len(slot.shape):
            slot.assign(np.full(slot.shape, 0.125))
    return model


def bits(model, optimizer=True):
    """Returns the bits of all weights, masks and optimizer variables."""
    variables = list(model.weights)
    if optimizer:
        variables += model.optimizer.variables
    return [array(v).tobytes() for v in variables]


def mask_bits(model):
    return [mask.tobytes() for _, mask in kernels_and_masks(model)]


def magnitudes(model):
    kernels = [k.astype("float32").ravel() for k, _ in kernels_and_masks(model)]
    return np.abs(np.concatenate(kernels))


def all_masks(model):
    return np.concatenate([m.ravel() for _, m in kernels_and_masks(model)])


def without_the_smallest(values, count):
    """Masks the `count` smallest values; for ties, the first ones."""
    mask = np.ones(values.size, bool)
    mask[np.argsort(values, kind="stable")[:count]] = False
    return mask


def assert_zeros(model, count):
    """Asserts that `count` weights are pruned, and only these are 0."""
    assert (~all_masks(model)).sum() == count
    for kernel, mask in kernels_and_masks(model):
        assert np.isfinite(kernel.astype("float32")).all()
        np.testing.assert_array_equal(kernel == 0, ~mask)


def said(warned):
    """Returns the messages of warnings, except NumPy's about others."""
    return [
        str(w.message)
        for w in warned
        if not issubclass(w.category, DeprecationWarning)
    ]


def set_kernels(model, values):
    """Sets the weights of all kernels, one after another."""
    for kernel in masked(model).kernels:
        part, values = values[: kernel.size], values[kernel.size :]
        kernel.variable.assign(part.reshape(kernel.variable.shape))


# Every boundary.

HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
)


class WatchEveryHook(keras.callbacks.Callback):
    """Checks at each hook that pruned weights and their slots are 0."""

    def __init__(self):
        super().__init__()
        self.seen = []
        for hook in HOOKS:
            setattr(self, hook, self.checking(hook))

    def checking(self, hook):
        def check(*args, **kwargs):
            pruned = 0
            optimizer = self.model.optimizer
            for kernel, mask in kernels_and_masks(self.model):
                assert (kernel[~mask] == 0).all(), hook
                # The two kernels differ in shape, biases in rank.
                slots = [
                    v for v in optimizer.variables if v.shape == mask.shape
                ]
                for slot in slots:
                    assert (array(slot)[~mask] == 0).all(), (hook, slot.path)
                pruned += (~mask).sum()
            self.seen.append((hook, int(pruned), len(slots)))

        return check


def beside(callbacks, others, place):
    before = place == "before"
    return [*others, *callbacks] if before else [*callbacks, *others]


# Trainings that fail.


class Breaking(keras.utils.PyDataset):
    """The batches of `fit`, one of which makes the training fail."""

    def __init__(self, epoch=None, value=np.nan):
        super().__init__()
        self.epoch = None
        self.bad, self.value = (epoch, 1), value

    def __len__(self):
        return STEPS

    def __getitem__(self, i):
        x, y = data()
        part = slice(16 * i, 16 * i + 16)
        weights = np.ones(16, "float32")
        if (self.epoch, i) == self.bad:
            weights[3] = self.value
        return x[part], y[part], weights


class TellEpoch(keras.callbacks.Callback):
    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch, logs=None):
        self.dataset.epoch = epoch


def fit_breaking(model, callbacks, dataset):
    return model.fit(
        dataset,
        epochs=5,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, TellEpoch(dataset)],
    )
