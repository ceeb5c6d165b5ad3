"""The jobs of the tests: one process for each environment.

A test runs in the job `tensorflow`, and in the first tier, unless it has a
mark:

    @pytest.mark.every_backend         # In `tensorflow`, `jax` and `torch`.
    @pytest.mark.job("devices")        # In the named jobs.
    @pytest.mark.slow                  # In the second tier.
    @pytest.mark.slow("jax", "torch")  # In the second tier of these jobs.

`KERAS_BIMP_JOB` sets the job of a process, or else `KERAS_BACKEND`. So
`KERAS_BACKEND=jax python -m pytest tests/masking_test.py` runs the tests for
all backends on JAX.
"""

import os

import pytest

COLLECTED = pytest.StashKey[list]()  # All tests that pytest found.
BACKENDS = ("tensorflow", "jax", "torch")
JOBS = {
    # One processor simulates four devices.
    "devices": {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    },
    # A process can have only one MirroredStrategy.
    "replicas": {"KERAS_BACKEND": "tensorflow"},
    "strategy": {"KERAS_BACKEND": "tensorflow"},
    "jax": {"KERAS_BACKEND": "jax"},
    # Other processes use the other cores.
    "torch": {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
    "tensorflow": {"KERAS_BACKEND": "tensorflow"},
}


def first_and_slow(values, first, *jobs: str) -> list:
    """Returns values of a parameter, with those not in `first` marked slow.

    Args:
        values: All values.
        first: The values for the first tier.
        *jobs: The jobs in which the others are slow. Defaults to all.
    """
    mark = pytest.mark.slow(*jobs) if jobs else pytest.mark.slow
    return [
        value if value in first else pytest.param(value, marks=mark)
        for value in values
    ]


def current() -> str:
    """Returns the name of this process' job."""
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    name = os.environ.get("KERAS_BIMP_JOB") or backend
    if name not in JOBS:
        raise ValueError(
            f"`KERAS_BIMP_JOB` must be one of {', '.join(JOBS)}. "
            f"Received: KERAS_BIMP_JOB={name}"
        )
    return name


def jobs_of(item) -> tuple[str, ...]:
    """Returns the names of the jobs in which a collected test runs."""
    marker = item.get_closest_marker("job")
    if marker is not None:
        return marker.args
    if item.get_closest_marker("every_backend"):
        return BACKENDS
    return ("tensorflow",)


def is_slow(item, job: str) -> bool:
    """Whether a collected test is in the second tier of a job."""
    return any(
        not marker.args or job in marker.args
        for marker in item.iter_markers("slow")
    )
