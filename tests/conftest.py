"""Runs tests marked `every_backend` or `own_process` in other processes."""

import gc
import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import other_processes
import pytest

os.environ["KERAS_BACKEND"] = keras.backend.backend()

# A fifth of the time went by in looking through what the imports have made.
if not gc.get_freeze_count():
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("every_backend"):
        if "backend" not in metafunc.fixturenames:
            metafunc.fixturenames.append("backend")
        metafunc.parametrize("backend", other_processes.BACKENDS)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs the test where the environment is what it asks for."""
    environment = {}
    if pyfuncitem.get_closest_marker("every_backend"):
        # Not `funcargs`: few of these tests ask for it.
        environment["KERAS_BACKEND"] = pyfuncitem.callspec.params["backend"]
    own = pyfuncitem.get_closest_marker("own_process")
    if own is not None:
        environment.update(own.kwargs)
    if other_processes.is_here(environment):
        return None
    backend = environment["KERAS_BACKEND"]
    if importlib.util.find_spec(backend) is None:
        pytest.fail(
            f"{backend} is not installed: pip install -e '.[test]'",
            pytrace=False,
        )
    code, output = other_processes.run(
        environment, [f"{pyfuncitem.path}::{pyfuncitem.name}"]
    )
    if code:
        pytest.fail(output, pytrace=False)
    if " skipped" in output and " passed" not in output:
        pytest.skip(f"not on {backend}")
    return True
