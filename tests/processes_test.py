"""Two processes that train together, compared with one, on JAX."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import lines_with

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(__file__).with_name("training_process.py")
ROOT = SCRIPT.parent.parent
EXAMPLE = ROOT / "examples" / "multi_host.py"
RUNS = ("data", "muon", "model", "resumed", "rewound", "lamp", "uniform", "n_m")


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPT.parent)]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(workers):
    outputs = [worker.communicate(timeout=400) for worker in workers]
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors[-4000:]
    return [out for out, _ in outputs]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    port = free_port()
    wait(
        [start(SCRIPT, 2, i, port, folder / f"{i}.npz") for i in range(2)]
        + [start(SCRIPT, 1, 0, port, folder / "alone.npz")]
    )
    found = []
    for name in (0, 1, "alone"):
        with np.load(folder / f"{name}.npz") as arrays:
            found.append(dict(arrays))
    return found


def of_run(result, run):
    found = {
        name: result[name] for name in result if name.startswith(f"{run}: ")
    }
    assert found
    return found


@pytest.mark.parametrize("run", RUNS)
def test_both_hold_the_same(results, run):
    first, second, _ = results
    mine, theirs = of_run(first, run), of_run(second, run)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], name)


@pytest.mark.parametrize("run", RUNS)
def test_they_do_what_one_process_does_alone(results, run):
    first, _, alone = results
    mine, theirs = of_run(first, run), of_run(alone, run)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        if value.dtype == bool or "counts" in name:
            np.testing.assert_array_equal(value, theirs[name], name)
        else:
            np.testing.assert_allclose(
                value, theirs[name], rtol=1e-5, atol=1e-5, err_msg=name
            )
    if run in ("data", "model"):
        assert mine[f"{run}: sparsity"][-1] == 0.7
        assert mine[f"{run}: loss"][-1] < mine[f"{run}: loss"][0]


def test_a_run_that_is_taken_up_ends_as_one_that_was_not(results):
    for result in results:
        whole, taken_up = of_run(result, "model"), of_run(result, "resumed")
        for name, value in taken_up.items():
            expected = whole[name.replace("resumed", "model")]
            np.testing.assert_array_equal(value, expected, name)


def test_masks_that_differ_stop_both_before_anything_changed(results):
    first, second, _ = results
    said = str(first["disagree: said"])
    assert said == str(second["disagree: said"])
    assert lines_with(said, "dense/kernel", "0, 1")


def test_both_stop_for_a_weight_that_only_one_of_them_holds(results):
    said = [str(result["nan: said"]) for result in results[:2]]
    assert "process" in said[0]
    assert "nan" in said[1]
    assert "(2, 7)" in said[1]


def test_the_example(tmp_path):
    port = free_port()
    outputs = wait(
        [
            start(
                EXAMPLE,
                f"--coordinator=localhost:{port}",
                "--process_count=2",
                f"--process_index={i}",
                "--epochs=3",
                "--dense_epochs=2",
                f"--output_dir={tmp_path}",
            )
            for i in range(2)
        ]
    )
    assert lines_with(outputs[0], "2 devices", "2 processes")
    assert "95.00%" in outputs[0]
    assert "accuracy" not in outputs[1]
    assert (tmp_path / "model.keras").exists()
