"""The comparison with tfmot: common parts, our side, and its tables."""

import io
import json

import keras
import numpy as np
import pytest
from from_examples import STUDY
from from_examples import importable
from helpers import lines_with

pytestmark = pytest.mark.slow

RUN = {
    "method": "gmp_uniform",
    "target_sparsity": 0.75,
    "epochs": 4,
    "interval": 1,
    "allocation": "uniform",
    "width": 16,  # With less, see `projection` in the study's pieces.py.
    "batch_size": 16,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "seed": 0,
}


@pytest.fixture(scope="module")
def peer():
    with importable(STUDY):
        import tfmot_peer.keras_bimp_side
        import tfmot_peer.training

        yield tfmot_peer


@pytest.fixture(scope="module")
def tables():
    with importable(STUDY):
        import tfmot_tables

        yield tfmot_tables


@pytest.fixture
def images(tmp_path):
    """Writes images of 4 classes: which quarter of the image is bright."""
    rng = np.random.default_rng(0)
    y = np.arange(72) % 4
    x = rng.normal(size=(72, 8, 8, 1)).astype("float32")
    for image, label in zip(x, y, strict=True):
        row, column = divmod(4 * label, 8)
        image[4 * row : 4 * row + 4, column : column + 4] += 3
    path = tmp_path / "images.npz"
    np.savez(path, x=x[:40], y=y[:40], x_test=x[40:], y_test=y[40:])
    return path


def test_the_network_starts_alike_for_a_seed(peer):
    def start(seed):
        network = peer.training.build_network(
            keras, (32, 32, 3), RUN | {"width": 16, "seed": seed}
        )
        return [kernel.numpy() for kernel in peer.training.kernels(network)]

    kernels = start(0)
    assert sum(kernel.size for kernel in kernels) == 77_360
    for kernel in kernels:
        fan_in = np.prod(kernel.shape[:-1])
        assert kernel.std() == pytest.approx((2 / fan_in) ** 0.5, rel=0.2)
    for one, same, other in zip(kernels, start(0), start(1), strict=True):
        np.testing.assert_array_equal(one, same)
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2


def test_each_epoch_has_all_images_in_an_order_of_its_own(peer):
    x = np.arange(20)

    def epochs(seed):
        run = RUN | {"batch_size": 8, "epochs": 3, "seed": seed}
        found = list(peer.training.batches(x, -x, run).as_numpy_iterator())
        assert [len(batch) for batch, _ in found] == [8, 8, 4] * 3
        for batch, labels in found:
            np.testing.assert_array_equal(labels, -batch)
        return [
            list(np.concatenate([batch for batch, _ in found[i : i + 3]]))
            for i in (0, 3, 6)
        ]

    assert peer.training.steps_per_epoch(x, RUN | {"batch_size": 8}) == 3
    orders = epochs(0)
    assert orders == epochs(0)
    assert len({tuple(order) for order in orders + epochs(1)}) == 6
    assert all(sorted(order) == list(x) for order in orders)


def side(peer, capsys, run, images):
    peer.keras_bimp_side.main(run, images)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("method", ["gmp_uniform", "bimp"])
def test_our_side_learns_and_reaches_the_sparsity(peer, capsys, images, method):
    run = RUN | {"method": method, "epochs": 8}
    *_, line = side(peer, capsys, run, images)
    found = json.loads(line)
    assert found["sparsity"] == pytest.approx(0.75, abs=0.002)
    assert found["losses"][-1] < 0.5 * found["losses"][0]
    assert 0 <= found["accuracy"] <= 100
    assert len(found["losses"]) == len(found["seconds"]) == 8


def test_a_turn_waits_for_a_line(peer, capsys, monkeypatch, images):
    run = RUN | {"method": "keras", "epochs": 3, "turn_steps": 2}
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    ready, *seconds, last = side(peer, capsys, run, images)
    assert ready == "ready"
    assert [float(s) for s in seconds] == json.loads(last)["seconds"][1:]
    with pytest.raises(SystemExit, match="turn"):
        peer.training.Turns(wait=True).begin(2)  # No line to read.


def result(method, accuracy, target, loss=2.0, sparsity=None):
    run = {
        "dataset": "cifar10",
        "method": method,
        "target_sparsity": target,
        "seed": 0,
    }
    sparsity = target if sparsity is None else sparsity
    return run, {"accuracy": accuracy, "sparsity": sparsity, "losses": [loss]}


def test_the_tables(tables):
    results = [
        result("keras", 60.0, 0.0),
        result("tf_keras", 61.0, 0.0, loss=2.0001),
        result("gmp_uniform", 50.0, 0.9),
        result("gmp_uniform", 52.0, 0.9),
        result("tfmot", 49.0, 0.9, loss=2.002, sparsity=0.899),
    ]
    rounds = [
        {m: 0.5 * scale for m in tables.METHODS} | {"tfmot": scale}
        for scale in (1.0, 2.0, 3.0)
    ]
    lines = tables.as_markdown(results, rounds, 1000).splitlines()
    assert lines_with(lines[0], "cifar10", "90%")
    assert "| keras | 60.00 |  |" in lines
    assert "| gmp_uniform |  | 51.00 +- 1.41 |" in lines
    assert "| tfmot |  | 49.00 |" in lines
    assert any("1e-03" in line for line in lines)
    assert any("0.10%" in line for line in lines)
    ours, theirs = "2.000 [2.000, 2.000]", "0.500 [0.500, 0.500]"
    one = "1.000 [1.000, 1.000] | 1.000, 1.000"
    assert f"| gmp | 1000 | {ours} | 2.000, 2.000 | {one} |" in lines
    assert f"| tfmot | 500 | {one} | {theirs} | 0.500, 0.500 |" in lines


def test_the_tables_of_some_methods(tables):
    results = [result("bimp", 56.0, 0.9), result("tfmot", 53.0, 0.9)]
    text = tables.as_markdown(results, [], 1000)
    assert "| bimp |  | 56.00 |" in text
    assert "Loss in the first epoch" not in text
    rounds = [{"tfmot": 1.0, "bimp": 2.0, "tf_keras": 1.0, "keras": 1.0}]
    assert "| bimp | 500 |" in tables.as_markdown(results, rounds, 1000)
