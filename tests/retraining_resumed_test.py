"""Models that are saved and loaded in the middle of a plan."""

import keras
import numpy as np
import pytest
from helpers import STEPS
from helpers import TOTAL
from helpers import RecordingSGD
from helpers import array
from helpers import compile_model
from helpers import dense_model
from helpers import fit
from helpers import wrapped
from helpers import zeros

import keras_bimp
from keras_bimp._src import schedules


@pytest.mark.slow
@pytest.mark.parametrize("saved_after", [1, 4, 6])
@pytest.mark.parametrize("compile_first", [False, True])
def test_a_model_saved_in_mid_run_goes_on_as_if_undisturbed(
    tmp_path, saved_after, compile_first
):
    def ours():
        # The original training is so long that the discount is d1.
        return keras_bimp.callbacks(
            0.8, dense_epochs=3, cycles=2, original_epochs=100, verbose=0
        )

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch + 1 == saved_after:
                self.model.save(tmp_path / "model.keras")

    optimizer = RecordingSGD(0.1, momentum=0.9)
    if compile_first:
        undisturbed = keras_bimp.wrap(compile_model(dense_model(), optimizer))
    else:
        undisturbed = wrapped(optimizer)
    history = fit(undisturbed, 8, [*ours(), Save()]).history

    model = keras.models.load_model(tmp_path / "model.keras")
    joined = model.optimizer._learning_rate
    assert isinstance(joined, schedules.Joined)
    assert int(model.optimizer.iterations) == saved_after * STEPS
    assert zeros(model) == round(history["sparsity"][saved_after - 1] * TOTAL)
    rest = fit(model, 8, ours(), initial_epoch=saved_after).history
    for old, new in zip(
        undisturbed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    for theirs, mine in zip(
        undisturbed.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(theirs), array(mine))
    assert rest["loss"] == history["loss"][saved_after:]
    assert rest["discount"] == pytest.approx(history["discount"][saved_after:])


def test_resuming_a_model_compiled_with_a_schedule(tmp_path):
    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                self.model.save(tmp_path / "model.keras")

    def ours():
        return keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0)

    cosine = keras.optimizers.schedules.CosineDecay(0.1, 6 * STEPS)
    undisturbed = wrapped(keras.optimizers.SGD(cosine, momentum=0.9))
    fit(undisturbed, 6, [*ours(), Save()])
    model = keras.models.load_model(tmp_path / "model.keras")
    fit(model, 6, ours(), initial_epoch=4)
    for old, new in zip(
        undisturbed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert isinstance(model.optimizer._learning_rate, type(cosine))


def test_a_loaded_model_goes_on_without_callbacks_to_the_end_of_its_cycle(
    tmp_path,
):
    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                self.model.save(tmp_path / "model.keras")

    undisturbed = wrapped()
    ours = keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0)
    fit(undisturbed, 6, [*ours, Save()])
    model = keras.models.load_model(tmp_path / "model.keras")
    fit(model, 6, initial_epoch=4)
    for old, new in zip(
        undisturbed.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
