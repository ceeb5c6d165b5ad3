import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import lines_with
from helpers import masked
from helpers import wrapped
from matplotlib.figure import Figure

import keras_bimp


def trained():
    model = compile_model(dense_model())
    fit(model, 5)
    return model


def accuracy_with(model, kernel, pruned):
    """Returns the accuracy with the smallest weights of a kernel at 0."""
    value = array(kernel)
    order = np.argsort(np.abs(value), axis=None, kind="stable")
    changed = value.copy()
    changed.flat[order[:pruned]] = 0
    kernel.assign(changed)
    accuracy = model.evaluate(*data(), verbose=0)[1]
    kernel.assign(value)
    return accuracy


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_each_kernel_alone_is_pruned_and_put_back():
    model = trained()
    before = [array(v) for v in model.weights]
    result = keras_bimp.sensitivity(model, data(), (0.5, 0.9), verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    first, second = model.layers[0].kernel, model.layers[-1].kernel
    assert result.baseline == model.evaluate(*data(), verbose=0)[1]
    assert result.accuracies == {
        first.path: (
            accuracy_with(model, first, 24),
            accuracy_with(model, first, 43),
        ),
        second.path: (
            accuracy_with(model, second, 12),
            accuracy_with(model, second, 22),
        ),
    }


@pytest.mark.slow
def test_a_wrapped_model_gives_the_same():
    model = trained()
    plain = keras_bimp.sensitivity(model, data(), verbose=0)
    model = keras_bimp.wrap(model)
    assert keras_bimp.sensitivity(model, data(), verbose=0) == plain
    assert all(array(mask).all() for mask in masked(model).masks)
    # Pruned weights stay pruned, and the model is restored to that.
    keras_bimp.prune(model, 0.6)
    masks = [array(mask) for mask in masked(model).masks]
    pruned = keras_bimp.sensitivity(model, data(), (0.01,), verbose=0)
    assert {row[0] for row in pruned.accuracies.values()} == {pruned.baseline}
    for one, other in zip(masks, masked(model).masks, strict=True):
        np.testing.assert_array_equal(one, array(other))


RESULT = keras_bimp.Sensitivity(
    baseline=0.9,
    sparsities=(0.5, 0.8, 0.9),
    accuracies={
        "net/a/kernel": (0.9, 0.885, 0.88),
        "net/b/kernel": (0.91, 0.5, 0.9),
        "net/c/kernel": (0.1, 0.1, 0.1),
    },
    skipped=(("net/d/kernel", "frozen"),),
)


def test_suggested_caps():
    assert RESULT.suggested_caps() == {
        "net/a/kernel": 0.9,
        "net/b/kernel": 0.5,
        "net/c/kernel": 0.0,
    }
    assert RESULT.suggested_caps(0.016)["net/a/kernel"] == 0.8
    assert set(RESULT.suggested_caps(1.0).values()) == {0.9}
    with pytest.raises(ValueError, match="`max_drop`"):
        RESULT.suggested_caps(-0.1)


def test_caps_are_what_prune_takes():
    model = wrapped()
    result = keras_bimp.sensitivity(model, data(), (0.5, 0.9), verbose=0)
    caps = result.suggested_caps(max_drop=1.0)
    pruning = keras_bimp.prune(model, 0.85, max_layer_sparsity=caps)
    assert min(pruning.counts.values()) >= 3  # A tenth of 24, rounded up.


def test_the_table_and_the_picture(tmp_path):
    lines = str(RESULT).splitlines()
    assert "90.0%" in lines[0]
    row = next(line for line in lines if "net/b" in line)
    assert row.split() == ["net/b/kernel", "91.0", "50.0", "90.0", "0.5"]
    assert lines_with(lines[-1], "net/d/kernel", "frozen")
    figure = RESULT.plot(tmp_path / "map.png")
    assert isinstance(figure, Figure)
    (axes, _) = figure.axes
    np.testing.assert_array_equal(
        axes.images[0].get_array(), list(RESULT.accuracies.values())
    )
    assert (tmp_path / "map.png").stat().st_size > 5000


def test_filters_of_convolutions_only():
    keras.utils.set_random_seed(0)
    model = compile_model(
        keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Reshape((6, 1)),
                keras.layers.Conv1D(4, 3),
                keras.layers.Flatten(),
                keras.layers.Dense(3, name="head"),
            ]
        )
    )
    result = keras_bimp.sensitivity(
        model, data(), (0.5,), granularity="filter", verbose=0
    )
    (path,) = result.accuracies
    assert "conv1d" in path
    ((skipped, reason),) = result.skipped
    assert "head" in skipped
    assert "filters" in reason


def test_2_of_4():
    model = trained()
    result = keras_bimp.sensitivity(
        model, data(), (0.5,), granularity="2:4", verbose=0
    )
    assert len(result.accuracies) == 2
    with pytest.raises(ValueError, match=r"`sparsities`.*0\.5"):
        keras_bimp.sensitivity(model, data(), granularity="2:4", verbose=0)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"sparsities": (0.9, 0.5)}, ValueError, r"`sparsities`.*\(0\.9"),
        ({"sparsities": ()}, ValueError, r"`sparsities`.*\(\)"),
        ({"sparsities": (1.0,)}, ValueError, "`sparsities`"),
        ({"sparsities": 0.5}, TypeError, "`sparsities`"),
        ({"data": None}, ValueError, "`data`"),
        ({"metric": "loss"}, ValueError, "`metric`"),
        ({"data": [1]}, ValueError, "`data`"),
        ({"data_fraction": 2.0}, ValueError, "`data_fraction`"),
        ({"metric": "auc"}, ValueError, "'auc'"),
        ({"filters": "nothing"}, ValueError, "`model`.*`filters`"),
        ({"granularity": "filter"}, ValueError, "`model`.*kernel.*filters"),
        ({"criterion": "size"}, ValueError, "'saliency'"),
    ],
)
def test_bad_arguments(arguments, error, text):
    arguments = {"data": data(), "verbose": 0, **arguments}
    with pytest.raises(error, match=text):
        keras_bimp.sensitivity(compile_model(dense_model()), **arguments)
