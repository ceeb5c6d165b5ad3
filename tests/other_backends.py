"""Runs tests on the backends of Keras that this process does not use."""

import concurrent.futures
import contextlib
import functools
import importlib.util
import io
import multiprocessing
import os
import unittest.mock

BACKENDS = ("tensorflow", "jax", "torch")


def installed(backend):
    return importlib.util.find_spec(backend) is not None


@functools.cache
def process(backend):
    """A process that uses `backend`, with an environment made for it."""
    with unittest.mock.patch.dict(
        os.environ,
        KERAS_BACKEND=backend,
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        PYTEST_ADDOPTS="",
    ):
        pool = concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn")
        )
        pool.submit(os.getpid).result()  # Starts it.
    return pool


def run(backend, arguments):
    """Returns the exit code and the output of pytest in another process."""
    return process(backend).submit(_run_here, arguments).result()


def _run_here(arguments):
    import pytest

    # Of an xdist worker, whose environment this process has.
    os.environ.pop("PYTEST_XDIST_WORKER", None)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main(["-p", "no:cacheprovider", *arguments])
    return int(code), output.getvalue()
