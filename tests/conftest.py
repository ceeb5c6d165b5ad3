"""Makes this process the job that it is to be, and leaves out other jobs."""

import gc
import os

import jobs
import pytest

JOB = jobs.current()
os.environ.update(jobs.JOBS[JOB])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402  Reads the environment.

# A fifth of the time went by in looking through what the imports have made.
if not gc.get_freeze_count():
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture
def backend():
    """The name of the backend that this process has."""
    return keras.backend.backend()


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if JOB in jobs.jobs_of(item)]
    there = [item for item in items if JOB not in jobs.jobs_of(item)]
    config.hook.pytest_deselected(items=there)
    items[:] = here
