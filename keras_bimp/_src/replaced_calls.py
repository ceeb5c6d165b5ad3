"""What layers compute, exchanged for a while."""

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
    """For as long as this lasts, methods of layers are other functions.

    Only in this thread: others find the methods as they were.

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
            # Not as an attribute, which Keras would look for weights in.
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
