"""The examples in the docstrings run and print what they say."""

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


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    keras.backend.clear_session()  # Names of layers start anew.
    result = doctest.testmod(
        importlib.import_module(name),
        globs={"keras": keras, "keras_bimp": keras_bimp, "np": np},
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    examples = [
        test.name
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert len(examples) > 15
