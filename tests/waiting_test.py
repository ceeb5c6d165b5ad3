"""Progress messages of slow operations, and lists that stay short."""

import re
import time

import keras
import numpy as np
import pytest
from helpers import dense_model
from helpers import fit
from helpers import wrapped
from keras import layers

import keras_bimp
from keras_bimp._src import progress_display as waiting_module
from keras_bimp._src.name_lists import listed
from keras_bimp._src.progress_display import waiting


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(waiting_module, "_PATIENCE", 0.0)


def test_nothing_is_said_of_what_is_quick(capsys):
    with waiting("Counting") as tell:
        tell("one", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_line_per_step_where_there_is_no_terminal(impatient, capsys):
    with waiting("Counting") as tell:
        tell("one")
        time.sleep(0.2)
        tell("two", 0, 2)
        tell("two", 1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "Counting: two ..."
    assert err.count("two") == 1


def test_a_bar_on_a_terminal(impatient, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with waiting("Counting") as tell:
        time.sleep(0.1)
        tell("two", 1, 2)
        time.sleep(0.3)
    err = capsys.readouterr().err
    assert "50%" in err
    assert "Counting: two" in err


def test_it_ends_where_something_fails(impatient, capsys):
    def fail():
        with waiting("Counting"):
            time.sleep(0.1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "name", "step"),
    [
        ("packed", "m.packed", "reading it again"),
        ("tf_saved_model", "1", "running it in its own runtime"),
    ],
)
def test_exports_tell(format, name, step, impatient, capsys, tmp_path):
    keras_bimp.export(dense_model(), tmp_path / name, format)
    err = capsys.readouterr().err
    assert f"Exporting '{name}': {step}" in err
    keras_bimp.export(dense_model(), tmp_path / f"2{name}", format, verbose=0)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_reports_tell(impatient, capsys):
    keras_bimp.report(dense_model(), latency=False)
    assert "file sizes ..." in capsys.readouterr().err
    keras_bimp.report(dense_model(), latency=False, verbose=0)
    assert capsys.readouterr() == ("", "")


def test_lists():
    assert listed(["a"]) == "a"
    assert listed("abc") == "a, b, c"
    assert listed(map(str, range(1052)), "; ") == "0; 1; 2 and 1,049 more"
    assert listed([]) == ""


def many_layers(count):
    """Builds layers that pruning would empty, except the last."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), *(layers.Dense(6) for _ in range(count))]
    )
    for layer in model.layers[:-1]:
        layer.kernel.assign(1e-3 * np.asarray(layer.kernel))
    model.add(layers.Dense(3))
    return model


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_many_protected_kernels_are_a_count_and_three(capsys):
    model = wrapped(model=many_layers(9))
    fit(model, 2, keras_bimp.callbacks(0.8, dense_epochs=1))
    out = capsys.readouterr().out
    (line,) = re.findall("cycle 1: 8 protected from collapse: .*", out)
    assert line.count("left)") == 3
    assert line.endswith(" and 5 more")
    with pytest.raises(ValueError, match=r"\d in \S+kernel and 5 more$"):
        keras_bimp.prune(
            keras_bimp.wrap(many_layers(9)), 0.8, on_collapse="raise"
        )


def test_many_skipped_kernels_are_a_count_and_three(capsys):
    model = many_layers(9)
    for layer in model.layers[:-1]:
        layer.trainable = False
    model = wrapped(model=model)
    fit(model, 1, keras_bimp.callbacks(0.5, dense_epochs=0))
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if "not pruned: " in line)
    assert re.search(r"not pruned: 9: .*kernel and 6 more \(frozen\)", line)
