"""The public functions and classes: what the API pages and the tests list."""

import importlib
import inspect

MODULES = (
    "keras_bimp",
    "keras_bimp.schedules",
    "keras_bimp.sparsity_schedules",
    "keras_bimp.selection",
    "keras_bimp.baselines",
    "keras_bimp.metrics",
    "keras_bimp.masking",
    "keras_bimp.shrinking",
    "keras_bimp.reporting",
    "keras_bimp.exporting",
    "keras_bimp.backup",
)


def objects() -> list:
    """Pairs (path, function or class), each object once."""
    found = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__, key=_by_length):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found.setdefault(id(thing), (f"{module_name}.{name}", thing))
    return list(found.values())


def _by_length(name):
    """The short name first, where there is a long one for the same."""
    return len(name), name
