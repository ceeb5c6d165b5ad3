"""All ways of saving in Keras and TensorFlow keep the masks."""

import pathlib
import pickle

import jobs
import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import TOTAL
from helpers import array
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from helpers import kernels_and_masks
from helpers import masked
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp
from keras_bimp import baselines
from keras_bimp._src import slots
from keras_bimp._src.keras_internals.layers import own_variables

TARGET = 0.75
PRUNED = round(TARGET * TOTAL)


def fresh():
    """Builds a model like the saved one, with a built optimizer."""
    model = wrapped()
    model.optimizer.build(model.trainable_variables)
    return model


def run(epochs=4):
    return keras_bimp.callbacks(
        TARGET, dense_epochs=1, cycles=epochs - 1, verbose=0
    )


def checkpoint(model):
    import tensorflow as tf

    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def by_checkpoint(model, folder):
    path = checkpoint(model).save(str(folder / "c"))
    again = fresh()
    checkpoint(again).read(path).assert_existing_objects_matched()
    return again


def by_manager(model, folder):
    import tensorflow as tf

    def manager(model):
        return tf.train.CheckpointManager(checkpoint(model), folder, 2)

    manager(model).save()
    again = fresh()
    assert manager(again).restore_or_initialize()
    return again


def by_keras_file(model, folder):
    model.save(folder / "m.keras")
    return keras.saving.load_model(folder / "m.keras")


def by_folder(model, folder):
    model.save(folder / "m", zipped=False)
    return keras.saving.load_model(folder / "m")


def by_weights(model, folder):
    model.save_weights(folder / "m.weights.h5")
    again = fresh()
    again.load_weights(folder / "m.weights.h5")
    return again


def by_sharded_weights(model, folder):
    model.save_weights(folder / "m.weights.json", max_shard_size=1.0)
    again = fresh()
    again.load_weights(folder / "m.weights.json")
    return again


def by_arrays(model, folder):
    again = fresh()
    again.set_weights(model.get_weights())
    return again


def by_state_tree(model, folder):
    tree = model.get_state_tree(value_format="numpy_array")
    # It identifies layers by name, and names are numbered.
    keras.utils.clear_session()
    again = fresh()
    again.set_state_tree(
        {
            key: tree[key]
            for key in ("trainable_variables", "non_trainable_variables")
        }
    )
    return again


def by_pickle(model, folder):
    return pickle.loads(pickle.dumps(model))


EVERY = {
    "keras file": by_keras_file,
    "keras folder": by_folder,
    "weights": by_weights,
    "sharded weights": by_sharded_weights,
    "arrays": by_arrays,
    "state tree": by_state_tree,
    "pickle": by_pickle,
}
TENSORFLOWS = {"checkpoint": by_checkpoint, "manager": by_manager}


def assert_goes_on_sparse(again, model):
    for (kernel, mask), (expected, its) in zip(
        kernels_and_masks(again), kernels_and_masks(model), strict=True
    ):
        np.testing.assert_array_equal(kernel, expected)
        np.testing.assert_array_equal(mask, its)
    fit(again, 2)
    assert zeros(again) == PRUNED


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize(
    "way",
    jobs.first_and_slow(EVERY, ("keras file", "weights", "state tree")),
)
def test_a_model_that_was_saved_stays_sparse(way, tmp_path):
    keras.utils.clear_session()
    model = wrapped()
    fit(model, 4, run())
    assert zeros(model) == PRUNED
    assert_goes_on_sparse(EVERY[way](model, tmp_path), model)


@pytest.mark.parametrize("way", TENSORFLOWS)
def test_a_checkpoint_of_tensorflow_stays_sparse(way, tmp_path):
    model = wrapped()
    fit(model, 4, run())
    again = TENSORFLOWS[way](model, tmp_path)
    for slot, expected in zip(
        again.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(slot), array(expected))
    assert_goes_on_sparse(again, model)


class CheckpointEachEpoch(keras.callbacks.Callback):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.paths = []

    def on_epoch_end(self, epoch, logs=None):
        path = checkpoint(self.model).write(str(self.folder / f"c{epoch}"))
        kept = [array(v) for v in slots.all_slots(self.model.optimizer)]
        self.paths.append((path, zeros(self.model), kept))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "loss scale", "schedule"])
def test_a_checkpoint_of_each_epoch_fits_a_fresh_model(optimizer, tmp_path):
    def make():
        if optimizer == "schedule":
            rate = keras.optimizers.schedules.CosineDecay(0.1, 4 * STEPS)
            return keras.optimizers.SGD(rate, momentum=0.9)
        sgd = keras.optimizers.SGD(0.1, momentum=0.9)
        if optimizer == "sgd":
            return sgd
        return keras.optimizers.LossScaleOptimizer(sgd, initial_scale=2.0)

    saving = CheckpointEachEpoch(tmp_path)
    fit(wrapped(make()), 4, [*run(), saving])
    assert [pruned for _, pruned, _ in saving.paths][-1] == PRUNED
    for path, pruned, kept in saving.paths:
        again = wrapped(make())
        again.optimizer.build(again.trainable_variables)
        checkpoint(again).read(path).assert_existing_objects_matched()
        assert zeros(again) == pruned
        for slot, expected in zip(
            slots.all_slots(again.optimizer), kept, strict=True
        ):
            np.testing.assert_array_equal(array(slot), expected)
        fit(again, 1)
        assert zeros(again) == pruned


def test_a_checkpoint_of_a_mask_inside_a_class(tmp_path):
    import tensorflow as tf

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras_bimp.Masked(layers.Dense(6))
            self.head = layers.Dense(3)

        def call(self, x):
            return self.head(self.inner(x))

    def make():
        model = compile_model(Own())
        model(np.zeros((1, 6), "float32"))
        return model

    model = make()
    keras_bimp.prune(model, 0.5)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    again = make()
    tf.train.Checkpoint(model=again).restore(path)
    fit(again, 2)
    assert zeros(again) == 18


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        baselines.StraightThrough(1),
        baselines.SoftThreshold(-5.0, 1e-4),
        baselines.SigmoidGate(0.05, 1e-8, 300.0),
        baselines.StepThreshold(1e-4),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_checkpoint_holds_what_a_rule_keeps(rule, tmp_path):
    def make():
        return compile_model(keras_bimp.wrap(dense_model(), rule=rule))

    model = make()
    for i, variable in enumerate(own_variables(masked(model))):
        variable.assign(np.full(variable.shape, i % 3))
    path = checkpoint(model).save(str(tmp_path / "c"))
    again = make()
    checkpoint(again).restore(path)
    own = own_variables(masked(model))
    assert len(own) > 2
    for one, other in zip(own_variables(masked(again)), own, strict=True):
        np.testing.assert_array_equal(array(one), array(other))


@pytest.mark.parametrize("trained", [False, True])
def test_a_saved_model_of_tensorflow_computes_the_same(trained, tmp_path):
    import tensorflow as tf

    model = wrapped()
    if trained:
        fit(model, 4, run())
    x = np.random.default_rng(0).standard_normal((5, 6)).astype("float32")
    expected = model.predict(x, verbose=0)
    tf.saved_model.save(model, str(tmp_path / "s"))
    again = tf.saved_model.load(str(tmp_path / "s"))
    (found,) = again.signatures["serving_default"](tf.constant(x)).values()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


SAVES = {
    "model.save": lambda model, path: model.save(path),
    "path": lambda model, path: model.save(pathlib.Path(path)),
    "by name": lambda model, path: model.save(filepath=path),
    "keras.saving": lambda model, path: keras.saving.save_model(model, path),
    "callback": lambda model, path: fit(
        model, 1, [keras.callbacks.ModelCheckpoint(path)]
    ),
}


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("name", ["m.h5", "m.hdf5"])
@pytest.mark.parametrize("save", SAVES)
def test_hdf5_of_a_wrapped_model_is_refused(save, name, tmp_path):
    if save == "callback" and name != "m.h5":
        name = "m.h5"  # The one that Keras' callback takes.
    with pytest.raises(ValueError, match=r"HDF5.*\.keras.*strip"):
        SAVES[save](wrapped(), str(tmp_path / name))
    if save == "keras.saving":
        # It opens its file before it uses the model.
        with pytest.raises(ValueError, match="No model config"):
            keras.models.load_model(tmp_path / name)
    else:
        assert not any(tmp_path.iterdir())


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.filterwarnings("ignore:You are saving")
def test_hdf5_of_a_stripped_model_is_sparse(tmp_path):
    model = wrapped()
    keras_bimp.prune(model, TARGET)
    keras_bimp.strip(model).save(tmp_path / "m.h5")
    again = keras.saving.load_model(tmp_path / "m.h5", compile=False)
    assert keras_bimp.sparsity(again).prunable == PRUNED / TOTAL
