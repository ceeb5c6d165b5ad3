"""Temporarily replace methods of layers."""

import contextlib
import threading
from collections.abc import Callable
from collections.abc import Iterator

import keras

_MISSING = object()


@contextlib.contextmanager
def replaced(
    functions: list[tuple[keras.Layer, str, Callable]],
) -> Iterator[None]:
    """Replace methods of layers by other functions until exit.

    Only in this thread; other threads see the original methods.

    Args:
        functions: Triples (layer, name of the method, function).
    """
    thread = threading.get_ident()
    before = [
        (layer, name, vars(layer).get(name, _MISSING))
        for layer, name, _ in functions
    ]
    try:
        for layer, name, function in functions:
            # Not with `setattr`, because Keras tracks attributes.
            vars(layer)[name] = _here(getattr(layer, name), function, thread)
        yield
    finally:
        for layer, name, method in reversed(before):
            if method is _MISSING:
                vars(layer).pop(name, None)
            else:
                vars(layer)[name] = method


def _here(method, function, thread):
    def call(*args, **kwargs):
        if threading.get_ident() != thread:
            return method(*args, **kwargs)
        return function(*args, **kwargs)

    return call
