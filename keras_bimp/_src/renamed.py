"""Errors for old public names."""

from collections.abc import Callable


def renamed(module: str, names: dict[str, str]) -> Callable:
    """Return a module `__getattr__` that reports the new name of an old one.

    Args:
        module: Name of the module.
        names: Old name -> full new name.
    """

    def __getattr__(name):
        message = f"module {module!r} has no attribute {name!r}"
        if name in names:
            message += f". It is now called `{names[name]}`"
        raise AttributeError(message)

    return __getattr__
