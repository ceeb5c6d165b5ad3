"""Old public names, and what they are called now."""

from collections.abc import Callable


def renamed(module: str, names: dict[str, str]) -> Callable:
    """A `__getattr__` of a module that tells the new name of an old one.

    Args:
        module: Name of the module.
        names: Old name -> full new one.
    """

    def __getattr__(name):
        message = f"module {module!r} has no attribute {name!r}"
        if name in names:
            message += f". It is called `{names[name]}` now"
        raise AttributeError(message)

    return __getattr__
