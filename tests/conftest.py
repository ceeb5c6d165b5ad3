"""Sets up the job of this process, and deselects tests of other jobs."""

import gc
import os

import jobs
import pytest

JOB = jobs.current()
os.environ.update(jobs.JOBS[JOB])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402  Reads the environment.

# Scanning the objects of imports would take a fifth of the time.
if not gc.get_freeze_count():
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)

if JOB == "replicas":
    import two_replicas

    two_replicas.mirrored()  # Before anything else uses a device.


@pytest.fixture
def backend():
    """Returns the name of this process' backend."""
    return keras.backend.backend()


def pytest_addoption(parser):
    parser.addoption(
        "--tier",
        choices=("first", "second"),
        help="the tests that are not slow, or those that are; default: both",
    )


def pytest_collection_modifyitems(config, items):
    tier = config.getoption("tier")
    config.stash[jobs.COLLECTED] = list(items)

    def is_run(item):
        if JOB not in jobs.jobs_of(item):
            return False
        return tier is None or (tier == "second") == jobs.is_slow(item, JOB)

    here = [item for item in items if is_run(item)]
    config.hook.pytest_deselected(
        items=[item for item in items if not is_run(item)]
    )
    items[:] = here
