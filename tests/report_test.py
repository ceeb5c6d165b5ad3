"""`report`: its numbers against what is counted here by hand."""

import csv
import gzip
import json

import keras
import numpy as np
import pytest
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import wrapped
from keras import layers

import keras_bimp


def image_model():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    x = layers.Conv2D(8, 3, name="frozen", trainable=False)(x)
    x = layers.DepthwiseConv2D(3, name="left_alone")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="last")(x), name="images")


def told(model, *arguments, **options):
    return keras_bimp.report(
        model, *arguments, **{"latency": False, "verbose": 0, **options}
    )


def trained(epochs=6, **kwargs):
    model = wrapped()
    ours = keras_bimp.callbacks(0.75, dense_epochs=2, cycles=2, verbose=0)
    return model, fit(
        model, epochs, [*ours, *kwargs.pop("beside", ())], **kwargs
    )


@pytest.mark.every_backend
def test_kernels_are_told_as_they_are():
    model = keras_bimp.wrap(image_model(), exclude="left_alone")
    keras_bimp.prune(model, 0.5)
    before = [array(v) for v in model.variables]
    found = told(model)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(variable))
    rows = {kernel.path.split("/")[-2]: kernel for kernel in found.kernels}
    assert list(rows) == ["first", "frozen", "left_alone", "last"]
    for name, row in rows.items():
        layer = model.get_layer(name)
        kernel = array(layer.kernel)
        assert row.layer == type(layer).__name__
        assert row.shape == kernel.shape
        assert row.left == np.count_nonzero(kernel)
    assert rows["first"].dense_flops == 6 * 6 * 3 * 3 * 4 * 8
    assert rows["first"].flops == 6 * 6 * rows["first"].left
    assert rows["left_alone"].dense_flops == 2 * 2 * 3 * 3 * 8
    assert rows["last"].dense_flops == 8 * 4
    assert found.dense_flops == sum(row.dense_flops for row in found.kernels)
    assert found.flops == sum(row.flops for row in found.kernels)
    assert [row.status for row in found.kernels] == [
        "pruned",
        "frozen",
        "matched by `exclude`",
        "pruned" if rows["last"].left < 32 else "dense",
    ]
    share = keras_bimp.metrics.sparsity(model)
    assert (found.sparsity, found.total_sparsity) == share
    assert found.parameters == model.wrapper.layer.count_params()
    stripped = told(keras_bimp.strip(model))
    assert stripped.flops == found.flops
    assert [k.left for k in stripped.kernels] == [k.left for k in found.kernels]
    assert [size.raw for size in stripped.sizes] == pytest.approx(
        [size.raw for size in found.sizes], rel=0.02
    )


def test_sizes_are_those_of_files(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((200,))
    dense = keras.Model(inputs, layers.Dense(300)(inputs))
    dense.compile(keras.optimizers.Adam(), "mse")
    model = keras_bimp.wrap(keras.models.clone_model(dense))
    keras_bimp.prune(model, 0.9)
    found = told(model, dense)
    keras_file, saved_model = found.sizes
    path = tmp_path / "model.keras"
    keras_bimp.strip(model).save(path)
    assert keras_file.raw == pytest.approx(path.stat().st_size, rel=0.02)
    packed = len(gzip.compress(path.read_bytes(), compresslevel=1))
    assert keras_file.gzipped == pytest.approx(packed, rel=0.02)
    folder = keras_bimp.export(
        keras_bimp.strip(keras_bimp.wrap(dense)), tmp_path / "1"
    )
    written = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert saved_model.dense_raw == pytest.approx(written, rel=0.02)
    for size in found.sizes:
        # 60,000 weights of 4 bytes, of which gzip finds 9 in 10 to be 0; of
        # an optimizer, nothing.
        assert 240_000 < size.raw < 280_000
        assert 240_000 < size.dense_raw < 280_000
        assert size.gzipped < 0.25 * size.raw
        assert size.dense_gzipped > 0.8 * size.dense_raw


def test_metrics_are_those_of_both_models():
    x, y = data()
    dense = compile_model(dense_model())
    model, history = trained()
    found = told(model, dense, (x, y), history)
    ours = model.evaluate(x, y, verbose=0, return_dict=True)
    theirs = dense.evaluate(x, y, verbose=0, return_dict=True)
    assert found.metrics == {
        name: pytest.approx((ours[name], theirs[name])) for name in ours
    }
    assert [(p.name, p.start, p.end) for p in found.phases] == [
        ("dense", 0, 2),
        ("cycle 1", 2, 4),
        ("cycle 2", 4, 6),
    ]
    assert found.history["sparsity"] == history.history["sparsity"]
    assert sum(found.histogram.counts) == sum(k.left for k in found.kernels)
    assert sum(found.histogram.dense_counts) == TOTAL


def test_a_model_that_is_not_compiled_has_no_metrics():
    assert told(dense_model(), None, data()).metrics == {}


class StopAfter(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 3


def test_it_says_how_far_the_training_came():
    model, _ = trained()
    assert told(model).state.startswith("Complete: 6 of 6 epochs are done, ")
    assert told(keras_bimp.strip(model)).state.startswith("Complete")
    model, _ = trained(beside=[StopAfter()])
    # One pruning of two: half of the weights on the way to three quarters.
    assert told(model).state == (
        "Incomplete: 4 of 6 epochs are done, sparsity 50.00% of 75.00%."
    )
    assert (
        told(dense_model()).state == "0.00% of the prunable weights are zeros."
    )


def test_it_says_that_the_training_failed(tmp_path):
    model = wrapped(keras.optimizers.SGD(1e30))
    with pytest.warns(RuntimeWarning, match="stopped"):
        fit(model, 4, keras_bimp.callbacks(0.5, dense_epochs=2, verbose=0))
    x, y = data()
    found = told(model, None, (x, y), path=tmp_path / "report.html")
    assert found.state.startswith("Failed: ")
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["loss"] == [
        None,
        None,
    ]


def test_files(tmp_path, capsys):
    model, history = trained(validation_split=0.25)
    path = tmp_path / "new" / "report.html"
    found = keras_bimp.report(model, history=history, path=path, latency=False)
    printed = capsys.readouterr().out
    for kernel in found.kernels:
        assert f" {kernel.left}  " in printed
    text = path.with_suffix(".json").read_text()
    numbers = json.loads(text, parse_constant=pytest.fail)
    assert numbers["sparsity"] == found.sparsity
    # No pruning yet in the dense phase.
    after = numbers["history"]["val_loss_after_pruning"]
    assert after[:2] == [None, None]
    assert None not in after[2:]
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["left"]) for row in rows] == [k.left for k in found.kernels]
    assert "Complete: 6 of 6 epochs" in path.read_text()


def test_times_are_in_turns_with_those_of_the_dense_model():
    found = told(image_model(), image_model(), latency=True)
    assert [facts.batch_size for facts in found.times] == [1, 32]
    for facts in found.times:
        for median, low, high in (
            facts.seconds,
            facts.dense_seconds,
            facts.speedup,
        ):
            assert 0 < low <= median <= high
        ratio = facts.dense_seconds[0] / facts.seconds[0]
        assert facts.speedup[0] == pytest.approx(ratio, rel=0.9)


def verdict(found, target):
    return next(v.text for v in found.verdicts if target in v.target)


def test_verdicts_see_structure():
    model = keras_bimp.wrap(image_model(), filters="first")
    keras_bimp.prune(model, 0.5, granularity="filter")
    assert "4 of " in verdict(told(model), "removing channels")
    model = keras_bimp.wrap(image_model(), filters="first|last")
    keras_bimp.prune(model, 0.5)
    assert "does not hold" in verdict(told(model), "sparse tensor cores")
    model = keras_bimp.wrap(image_model(), filters="first|last")
    keras_bimp.prune(model, 0.5, granularity="2:4")
    assert "holds in every" in verdict(told(model), "sparse tensor cores")
    assert "No output channel" in verdict(told(model), "removing channels")


class Own(layers.Layer):
    """Not registered: a file of it cannot be read."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, x):
        return x @ self.kernel


def test_what_cannot_be_measured_is_said():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), Own()])
    found = told(model, latency=True)
    assert found.dense_flops == 24
    assert [path.split("/")[-1] for path, _ in found.not_counted] == ["own"]
    assert found.kernels[1].dense_flops is None
    assert not found.sizes
    assert not found.times
    assert [what for what, _ in found.missing] == [
        "File sizes",
        "Times of predictions",
    ]
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, layers.Conv2D(2, 3)(inputs))
    assert told(model).dense_flops is None
    found = told(model, input_shape=(None, 5, 5, 1), latency=True)
    assert found.dense_flops == 3 * 3 * 3 * 3 * 2
    assert found.times


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "`model` must be", {"model": layers.Dense(3)}),
        (TypeError, "`dense` must be", {"dense": "dense"}),
        (ValueError, "`model` must be built", {"model": keras.Sequential()}),
        (ValueError, "must end in '.html'", {"path": "report.txt"}),
        (TypeError, "`history` must be", {"history": [1]}),
        (ValueError, "`data` must be", {"data": [1]}),
    ],
)
def test_errors(error, match, arguments):
    with pytest.raises(error, match=match):
        told(**{"model": dense_model(), **arguments})


def test_nothing_prunable():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    with pytest.raises(ValueError, match="something prunable"):
        told(model)


@pytest.mark.every_backend
def test_summaries_for_tensorboard(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    model = wrapped()
    ours = keras_bimp.callbacks(0.75, dense_epochs=2, verbose=0)
    fit(model, 4, [*ours, keras_bimp.PruningSummaries(tmp_path)])
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "pruning"),
        size_guidance={event_accumulator.TENSORS: 0},
    )
    events.Reload()
    kernels = {
        f"sparsity/{kernel.path}": np.mean(array(kernel.variable) == 0)
        for kernel in model.wrapper.kernels
    }
    assert set(events.Tags()["tensors"]) == set(kernels)
    for tag, share in kernels.items():
        values = [
            float(tensor_util.make_ndarray(event.tensor_proto))
            for event in events.Tensors(tag)
        ]
        assert values == pytest.approx([0, 0, share, share])


def test_summaries_want_a_wrapped_model(tmp_path):
    model = compile_model(dense_model())
    with pytest.raises(ValueError, match="must be wrapped"):
        fit(model, 1, [keras_bimp.PruningSummaries(tmp_path)])


@pytest.mark.every_backend
def test_throughput_leaves_the_model_as_it_is():
    model = wrapped(keras.optimizers.Adam())
    keras_bimp.prune(model, 0.5)
    fit(model, 1)
    kept = [*model.variables, *model.optimizer.variables]
    before = [array(v) for v in kept]
    rate = keras_bimp.metrics.train_throughput(model, *data(), batch_size=16)
    assert 0 < rate.low <= rate.median <= rate.high
    for old, variable in zip(before, kept, strict=True):
        np.testing.assert_array_equal(old, array(variable))
    with pytest.raises(ValueError, match="at least one batch"):
        keras_bimp.metrics.train_throughput(model, *data(), batch_size=65)
    with pytest.raises(ValueError, match="compiled"):
        keras_bimp.metrics.train_throughput(dense_model(), *data())
