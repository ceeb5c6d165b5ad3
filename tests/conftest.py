"""Runs tests marked `every_backend` on each backend of Keras."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import other_backends
import pytest


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("every_backend"):
        if "backend" not in metafunc.fixturenames:
            metafunc.fixturenames.append("backend")
        metafunc.parametrize("backend", other_backends.BACKENDS)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs the test in a process with the backend that it is to run on."""
    backend = pyfuncitem.funcargs.get("backend")
    if backend in (None, keras.backend.backend()):
        return None
    if not other_backends.installed(backend):
        pytest.skip(f"{backend} is not installed")
    code, output = other_backends.run(
        backend, [f"{pyfuncitem.path}::{pyfuncitem.name}"]
    )
    if code:
        pytest.fail(output, pytrace=False)
    if " skipped" in output and " passed" not in output:
        pytest.skip(f"not on {backend}")
    return True
