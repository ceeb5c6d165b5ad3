"""Runs tests in processes with an environment of their own."""

import atexit
import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import os
import shutil
import tempfile
import threading
import unittest.mock

BACKENDS = ("tensorflow", "jax", "torch")


def is_here(environment):
    """Whether this process has the environment that a test asks for."""
    return all(os.environ.get(k) == v for k, v in environment.items())


def run(environment, arguments):
    """Runs pytest in a process with some environment variables.

    Returns:
        The tuple (exit code, output).
    """
    there = _process(frozenset(environment.items()))
    return there.submit(_run_here, arguments).result()


@functools.cache
def _process(environment):
    # Tests compile the same things again and again.
    compiled = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    with unittest.mock.patch.dict(
        os.environ,
        environment,
        JAX_COMPILATION_CACHE_DIR=compiled,
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        PYTEST_ADDOPTS="",
        OMP_NUM_THREADS="1",  # Of torch; other processes use the other cores.
    ):
        pool = concurrent.futures.ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_end_with_parent,
        )
        pool.submit(os.getpid).result()  # Starts it.
    return pool


def _end_with_parent():
    """Ends this process when its parent does, however that ends."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _run_here(arguments):
    import pytest

    # Of an xdist worker, whose environment this process has.
    os.environ.pop("PYTEST_XDIST_WORKER", None)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main(["-p", "no:cacheprovider", *arguments])
    return int(code), output.getvalue()
