"""Runs the tests: a process for each job of jobs.py, in parallel.

    python tests/run.py            # The first tier: for each change.
    python tests/run.py --slow     # The second tier: slow or broad tests.


Other arguments go to pytest: `python tests/run.py -k masks`.
"""

import argparse
import collections
import configparser
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).parent.parent
SIDE_BY_SIDE = 2
FIRST_TIER = (
    ("jax", "tests"),
    ("torch", "tests"),
    ("devices", "tests/devices_test.py"),
    (
        "replicas",
        "tests/strategies_test.py",
        "tests/baselines_checks_test.py",
    ),
    # One more than there are cores: some tests wait for processes.
    ("tensorflow", "tests", f"-n{SIDE_BY_SIDE + 1}", "--dist=loadfile"),
)
# Files of the second tier, in order: if time is short, the last ones are left
# out, which is reported.
_TRAINING = (
    "retraining retraining_optimizers retraining_resumed retraining_arguments "
    "retraining_methods rewinding validation masking masking_refusals "
    "allocation_in_models saliency_in_models baselines gradual_pruning"
)
_HABITS = (
    "metric_objects unfreezing stripping progress checkpoints own_optimizers "
    "waiting report_inputs exporting_inputs units units_in_training "
    "sensitivity exporting shrinking shrinking_models shrinking_subclasses "
    "quantized"
)
_RESUMING = (
    "backup backup_states backup_of_data backup_signals baselines_backup"
)
_MODELS = (
    "macs_of_layers macs macs_tracing report sparse_serving "
    "sparse_kernel_choice"
)
_FORMATS = "exporting_formats exporting_quantized packed"
_STUDY = "networks segmentation translation"
SECOND_TIER = tuple(
    (job, *(f"tests/{name}_test.py" for name in names.split()))
    for job, names in (
        ("tensorflow", _RESUMING),
        (
            "tensorflow",
            "epoch_data edge_cases_of_pruning edge_cases_of_numbers "
            "edge_cases_of_fit edge_cases_of_callbacks",
        ),
        (
            "tensorflow",
            "retraining retraining_optimizers retraining_resumed "
            "retraining_arguments rewinding shrinking_graphs progress",
        ),
        (
            "tensorflow",
            "masking masking_refusals checkpoints unfreezing units "
            "units_in_training waiting",
        ),
        ("tensorflow", "metric_objects short loading recording sensitivity"),
        ("tensorflow", "report batch_norm"),
        ("tensorflow", "quantized exporting_quantized packed"),
        ("tensorflow", "retraining_methods baselines baselines_checks"),
        ("jax", _TRAINING),
        (
            "tensorflow",
            "exporting exporting_formats allocation_in_models "
            "saliency_in_models",
        ),
        (
            "tensorflow",
            "exporting_inputs exporting_messages sparse_serving "
            "sparse_kernel_choice",
        ),
        ("tensorflow", "hub"),
        ("tensorflow", "memory shrink_transformer sparse_transformer"),
        ("torch", _TRAINING),
        ("jax", f"{_RESUMING} epoch_data fitting"),
        ("tensorflow", "shrinking_networks macs_of_networks"),
        ("torch", f"{_RESUMING} epoch_data fitting"),
        ("tensorflow", "page examples smallest site docstring"),
        ("jax", _HABITS),
        ("torch", _HABITS),
        ("jax", f"docs {_FORMATS} {_MODELS}"),
        ("torch", f"docs {_FORMATS} {_MODELS}"),
        ("devices", "devices docs"),
        ("replicas", "strategies backup"),
        ("strategy", "docs"),
        ("tensorflow", "processes"),
        ("tensorflow", "cards compare_schedules pruning_stable tfmot_peer"),
        ("tensorflow", "compatibility"),
        ("tensorflow", "networks segmentation"),
        ("tensorflow", "translation image_data study"),
        ("jax", f"{_STUDY} backends hub"),
        ("torch", f"{_STUDY} backends hub"),
        ("tensorflow", "backends"),
    )
)
EXTRAS = ("examples", "test", "docs", "serving", "hub")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_TESTS = 5  # An exit code of pytest.

_printing = threading.Lock()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="the second tier")
    parser.add_argument(
        "--seconds", type=float, help="start nothing after so many seconds"
    )
    options, arguments = parser.parse_known_args()
    if missing := missing_packages(browser=options.slow):
        sys.exit(
            f"The tests need {', '.join(missing)}. Install what the README "
            "says, and Chromium for the second tier."
        )
    runs = SECOND_TIER if options.slow else FIRST_TIER
    tier = "second" if options.slow else "first"
    arguments = [f"--tier={tier}", *arguments]
    begin = time.monotonic()
    ends = begin + (options.seconds or float("inf"))

    def start(run):
        if time.monotonic() > ends:
            return None
        return run_job(*run, *arguments)

    with tempfile.TemporaryDirectory() as compiled:
        # Tests compile the same things repeatedly.
        os.environ.update(
            JAX_COMPILATION_CACHE_DIR=compiled,
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
        )
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            results = list(pool.map(start, runs))
    summarize(runs, results, time.monotonic() - begin)


def missing_packages(browser: bool) -> list[str]:
    """Returns missing requirements of setup.cfg: no test skips for them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    needed = " ".join(extras[name] for name in EXTRAS)
    names = [re.match(r"[\w.-]+", each)[0] for each in needed.split()]
    missing = [name for name in names if not is_installed(name)]
    if not any(map(is_installed, ("tensorflow", "tensorflow-cpu"))):
        missing.append("tensorflow")
    if browser and not any(map(shutil.which, BROWSERS)):
        missing.append("chromium")
    return missing


def is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run_job(job: str, *arguments: str) -> tuple[bool, collections.Counter]:
    """Runs pytest in a job.

    Returns:
        Whether it succeeded, and the number of tests by outcome.
    """
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env={**os.environ, "KERAS_BIMP_JOB": job},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    well = done.returncode in (0, NO_TESTS)
    # TensorFlow may print the last line.
    sums = re.findall(r"^(?:\d+ [a-z]+,? )+in [\d.]+s.*$", done.stdout, re.M)
    outcomes = collections.Counter()
    for count, outcome in re.findall(r"(\d+) ([a-z]+)", (sums or [""])[-1]):
        outcomes[outcome.removesuffix("s")] += int(count)
    with _printing:
        if not well:
            print(done.stdout)
        what = " ".join(a for a in arguments if a.startswith("tests"))
        print(
            f"{job} {what}: {outcomes['passed']} passed in "
            f"{time.monotonic() - begin:.0f} s"
            + ("" if well else f", exit code {done.returncode}"),
            flush=True,
        )
    return well, outcomes


def summarize(runs, results, seconds: float) -> None:
    """Prints the totals, and tests that did not run in time; exits."""
    left = [run for run, done in zip(runs, results, strict=True) if not done]
    for job, *arguments in left:
        print(f"No time for: {job} {' '.join(arguments)}")
    done = [result for result in results if result]
    total = sum((outcomes for _, outcomes in done), collections.Counter())
    failed = total["failed"] + total["error"]
    well = all(well for well, _ in done)
    print(f"{seconds:.0f} seconds in {len(done)} processes.")
    print(
        f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped"
    )
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
