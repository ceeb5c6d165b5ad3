"""Exactly the public names can be imported without an underscore."""

import builtins
import importlib
import pkgutil
import types

import pytest

import keras_bimp

MODULES = sorted(
    f"keras_bimp.{module.name}"
    for module in pkgutil.iter_modules(keras_bimp.__path__)
    if not module.name.startswith("_")
)


@pytest.mark.parametrize("name", ["keras_bimp", *MODULES])
def test_public_names_are_those_of_all(name):
    module = importlib.import_module(name)
    found = {
        name
        for name in vars(module)
        if not name.startswith("_") and name not in module.__all__
    }
    # `baselines.str` is public, but not part of `import *`.
    assert found == ({"str"} if name == "keras_bimp.baselines" else set())
    assert module.__doc__


def test_modules_are_public():
    modules = {
        f"keras_bimp.{name}"
        for name in keras_bimp.__all__
        if isinstance(getattr(keras_bimp, name), types.ModuleType)
    }
    assert modules == set(MODULES)


@pytest.mark.parametrize("name", ["keras_bimp", *MODULES])
def test_import_star_hides_no_builtin(name):
    assert not set(importlib.import_module(name).__all__) & set(dir(builtins))


def test_old_names_tell_the_new_ones():
    with pytest.raises(AttributeError, match="called `keras_bimp"):
        keras_bimp.metrics.count_flops  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute"):
        keras_bimp.metrics.nothing  # noqa: B018


def test_short_and_full_names_are_the_same():
    methods = keras_bimp.baselines
    assert methods.gmp is methods.gradual_magnitude_pruning
    assert methods.str is methods.soft_threshold_reparameterization
