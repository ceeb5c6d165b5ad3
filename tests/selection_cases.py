"""Kernels, and a plain sort to compare selections with."""

import functools

import numpy as np

import keras_bimp

# Like the references: a kernel may lose all weights of a unit.
select = functools.partial(keras_bimp.select, on_collapse="ignore")


def oracle(kernels, pruned, masks):
    """Checks global magnitude selection by one stable sort."""
    scores = np.concatenate(
        [np.abs(k).astype("float64").ravel() for k in kernels]
    )
    scores[~np.concatenate([m.ravel() for m in masks])] = -1
    keep = np.ones(len(scores), bool)
    keep[np.argsort(scores, kind="stable")[:pruned]] = False
    sizes = np.cumsum([k.size for k in kernels])[:-1]
    parts = np.split(keep, sizes)
    return [p.reshape(k.shape) for p, k in zip(parts, kernels, strict=True)]


def assert_equal(masks, expected):
    for ours, theirs in zip(masks, expected, strict=True):
        assert ours.dtype == bool
        np.testing.assert_array_equal(ours, theirs)


EVERY = ["global", "uniform", "erk", "lamp", "relative"]
