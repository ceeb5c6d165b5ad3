"""Imports from the examples, for one test file at a time."""

import contextlib
import pathlib
import sys

from absl import flags

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
STUDY = EXAMPLES / "study"


@contextlib.contextmanager
def importable(folder):
    """Makes the modules in `folder` importable, and unloads them afterwards.

    Scripts define absl flags, which are global, and several scripts have flags
    of the same name. So these are removed, too.


    Args:
        folder: Path, `EXAMPLES` or `STUDY`.

    Yields:
        Nothing.
    """
    modules, defined = set(sys.modules), set(flags.FLAGS)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules:
            path = getattr(sys.modules[name], "__file__", None)
            if path and EXAMPLES in pathlib.Path(path).parents:
                del sys.modules[name]
        for name in set(flags.FLAGS) - defined:
            delattr(flags.FLAGS, name)
