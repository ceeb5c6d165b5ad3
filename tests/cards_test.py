"""Runs the scripts for CIFAR and ImageNet, and the search, as users do."""

import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from from_examples import EXAMPLES
from helpers import lines_with

pytestmark = pytest.mark.slow

# Runs imagenet.py on random 32x32 images, so that it is quick, after showing
# the defaults of cifar100.py.
ON_MOCK_DATA = f"""
import runpy, sys
import tensorflow_datasets as tfds
sys.argv.pop(0)
sys.path.insert(0, {str(EXAMPLES)!r})
import cifar100
print(*(cifar100.FLAGS[n].default for n in ("dataset", "network", "epochs")))
from study.data import imagenet
imagenet._SIZE = 32
with tfds.testing.mock_data(num_examples=4):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kernels_of(path):
    weights = keras.models.load_model(path).weights
    return [np.array(v) for v in weights if v.name == "kernel"]


def zeros(kernels):
    return sum(int((kernel == 0).sum()) for kernel in kernels)


def test_imagenet_runs_on_mock_data_to_the_report(tmp_path):
    output = run(
        "-c",
        ON_MOCK_DATA,
        EXAMPLES / "imagenet.py",
        "--network=resnet20",
        "--epochs=2",
        "--dense_epochs=1",
        "--cycles=1",
        "--batch_size=4",
        "--subset=2",
        f"--output_dir={tmp_path}",
    )
    assert output.startswith("cifar100 wide_resnet_28_10 200\n")
    assert len(re.findall("^epoch ", output, re.M)) == 2
    assert "90.00%" in output
    assert lines_with(output, str(tmp_path), "model.keras", "report.html")
    # Deleted at the end.
    assert not (tmp_path / "backup").exists()
    kernels = kernels_of(tmp_path / "model.keras")
    assert kernels[-1].shape == (64, 1000)
    assert zeros(kernels) == round(0.9 * sum(k.size for k in kernels))
    report = json.loads((tmp_path / "report.json").read_text())
    assert [phase["name"] for phase in report["phases"]] == ["dense", "cycle 1"]


def test_the_search_tries_what_it_is_told_and_trains_the_best(tmp_path):
    output = run(
        EXAMPLES / "tune.py",
        "--epochs=3",
        "--dense_epochs=1",
        "--cycles=1,2",
        f"--output_dir={tmp_path}",
    )
    assert output.count("'dense_epochs': 1") == 3  # The best one twice.
    assert output.count("'cycles': 1") + output.count("'cycles': 2") == 3
    assert "98.00%" in output
    kernels = kernels_of(tmp_path / "model.keras")
    assert zeros(kernels) == round(0.98 * sum(k.size for k in kernels))
