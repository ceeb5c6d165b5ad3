"""The examples in the docstrings run and print the expected output."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import keras_bimp

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(
        keras_bimp.__path__, keras_bimp.__name__ + "."
    )
)


def examples_of(name):
    """Returns the doctests of a module that have examples."""
    found = doctest.DocTestFinder().find(
        importlib.import_module(name),
        globs={"keras": keras, "keras_bimp": keras_bimp, "np": np},
    )
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    tests = examples_of(name)
    if tests:
        keras.backend.clear_session()  # Resets the names of layers.
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    for test in tests:
        assert runner.run(test).failed == 0


def test_there_are_examples():
    assert sum(len(examples_of(name)) for name in MODULES) > 15
