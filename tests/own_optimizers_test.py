"""Models trained by optimizers other than the compiled one."""

import keras
import numpy as np
import pytest
from helpers import array
from helpers import compile_model
from helpers import data
from helpers import dense_model
from helpers import fit
from helpers import gradients
from helpers import kernels_and_masks
from helpers import wrapped
from helpers import zeros
from keras import layers

import keras_bimp
from keras_bimp import baselines

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


class Own(keras.Model):
    """Trains with optimizers that are not passed to `compile`."""

    def __init__(self, optimizers, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras_bimp.Masked(dense_model())
        self.mine = optimizers

    def call(self, x, training=False):
        return self.inner(x, training=training)

    def optimizer_of_step(self):
        mine = self.mine() if callable(self.mine) else self.mine
        if isinstance(mine, dict):
            mine = mine["inner"]
        return mine[0] if isinstance(mine, list | tuple) else mine

    def train_step(self, batch):
        x, y = batch
        loss, found = gradients(self, LOSS, x, y)
        self.optimizer_of_step().apply(found, self.trainable_variables)
        return {"loss": loss}


HELD = {
    "attribute": lambda optimizer: optimizer,
    "list": lambda optimizer: [optimizer],
    "dict": lambda optimizer: {"inner": optimizer},
}


def own(optimizers):
    model = Own(optimizers)
    model(np.zeros((1, 6), "float32"))
    return model


def run(**kwargs):
    return keras_bimp.callbacks(0.5, dense_epochs=1, verbose=0, **kwargs)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("recipe", [False, True])
def test_callbacks_refuse_optimizers_of_the_model(recipe, held):
    model = own(HELD[held](momentum()))
    model.compile("rmsprop", LOSS)
    before = [array(v) for v in model.variables]
    callbacks = (
        baselines.gmp(0.5, hard=True, interval=1).callbacks if recipe else run()
    )
    with pytest.raises(ValueError, match=r"mine.*`keras_bimp.prune") as error:
        fit(model, 2, callbacks)
    assert str(error.value).count("(SGD)") == 1
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, array(variable))
    assert not isinstance(
        model.optimizer._learning_rate,
        keras.optimizers.schedules.LearningRateSchedule,
    )


@pytest.mark.parametrize("recipe", [False, True])
def test_callbacks_refuse_an_optimizer_that_makes_no_step(recipe):
    optimizer = momentum()
    model = own(lambda: optimizer)
    model.compile("rmsprop", LOSS)
    callbacks = (
        baselines.gmp(0.5, hard=True, interval=1).callbacks if recipe else run()
    )
    with pytest.raises(ValueError, match=r"RMSprop.*no step.*optimizer="):
        fit(model, 4, callbacks)
    assert zeros(model) == 0


@pytest.mark.parametrize("held", HELD)
def test_prune_knows_optimizers_of_the_model(held):
    model = own(HELD[held](momentum()))
    model.compile("rmsprop", LOSS)
    fit(model, 2)
    keras_bimp.prune(model, 0.5)
    fit(model, 2)
    assert zeros(model) == 36


def test_a_step_of_its_own_with_the_compiled_optimizer_is_fine():
    class Step(Own):
        def optimizer_of_step(self):
            return self.optimizer

    model = Step(None)
    model(np.zeros((1, 6), "float32"))
    model.compile(momentum(), LOSS)
    logs = fit(model, 2, run()).history
    assert logs["sparsity"] == [0.0, 0.5]
    assert zeros(model) == 36


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("given", [True, False])
def test_a_loop_whose_optimizers_are_not_known(given):
    model = keras_bimp.wrap(dense_model())
    optimizers = [momentum(), momentum()]
    x, y = data()

    def step():
        _, found = gradients(model, LOSS, x, y)
        pairs = list(zip(found, model.trainable_variables, strict=True))
        optimizers[0].apply_gradients(pairs[:2])
        optimizers[1].apply_gradients(pairs[2:])

    step()
    if given:
        keras_bimp.prune(model, 0.5, optimizer=optimizers)
        step()
        assert zeros(model) == 36
        return
    with pytest.warns(UserWarning, match=r"not known.*`optimizer`"):
        keras_bimp.prune(model, 0.5)
    step()
    assert zeros(model) < 36
    with (
        pytest.warns(UserWarning, match=r"not known.*`optimizer`"),
        pytest.warns(UserWarning, match=r"no longer 0.*optimizer="),
    ):
        keras_bimp.prune(model, 0.6)


def step_of(model, optimizer):
    _, found = gradients(model, LOSS, *data())
    optimizer.apply(found, model.trainable_variables)


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("compiled", [False, True])
def test_an_optimizer_that_trained_the_model_before_it_was_wrapped(compiled):
    plain, optimizer = dense_model(), momentum()
    step_of(plain, optimizer)
    model = keras_bimp.wrap(plain)
    if compiled:  # For `evaluate`.
        compile_model(model, momentum())
    with pytest.warns(UserWarning, match=r"not known.*`optimizer`"):
        keras_bimp.prune(model, 0.5)
    step_of(model, optimizer)
    assert zeros(model) < 36
    with pytest.warns(UserWarning, match=r"no longer 0.*optimizer="):
        keras_bimp.prune(model, 0.75, optimizer=optimizer)
    step_of(model, optimizer)
    assert zeros(model) == 54


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_no_warning_where_no_optimizer_can_remember():
    model = keras_bimp.wrap(dense_model())
    model.predict(data()[0], verbose=0)
    keras_bimp.prune(model, 0.5)
    keras_bimp.strip(model)
    model = keras_bimp.wrap(dense_model())
    model(data()[0], training=True)
    keras_bimp.prune(model, 0.5, optimizer=[])


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_an_optimizer_that_has_made_no_step_remembers_nothing():
    model, optimizer = keras_bimp.wrap(dense_model()), momentum()
    optimizer.build(model.trainable_variables)
    other, of_other = dense_model(), momentum()
    step_of(other, of_other)
    keras_bimp.prune(model, 0.5)
    for _ in range(3):
        step_of(model, optimizer)
    assert zeros(model) == 36


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_an_optimizer_that_is_gone_remembers_nothing():
    plain, optimizer = dense_model(), momentum()
    step_of(plain, optimizer)
    if keras.backend.backend() == "torch":
        plain.zero_grad()
    del optimizer
    keras_bimp.prune(keras_bimp.wrap(plain), 0.5)
    plain = compile_model(dense_model(), momentum())
    fit(plain, 1)
    model = compile_model(keras_bimp.wrap(plain), momentum())
    keras_bimp.prune(model, 0.5)  # The old train step was compiled.
    fit(model, 1)
    assert zeros(model) == 36


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_model_that_trains_the_same_layers_without_a_mask():
    plain = compile_model(dense_model(), momentum())
    model = compile_model(keras_bimp.wrap(plain), momentum())

    class Alternate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                fit(plain, 1)

    with pytest.warns(UserWarning, match=r"dense.*no longer 0.*share"):
        fit(model, 4, [*run(), Alternate()])


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
@pytest.mark.parametrize("how", ["callbacks", "prune"])
def test_two_wrapped_models_that_share_layers_are_refused(how):
    inputs = keras.Input((6,))
    shared = layers.Dense(8, name="shared")(inputs)
    first, second = (
        compile_model(
            keras_bimp.wrap(
                keras.Model(inputs, layers.Dense(3, name=name)(shared))
            )
        )
        for name in "ab"
    )
    prune = {
        "prune": lambda: keras_bimp.prune(first, 0.5),
        "callbacks": lambda: fit(first, 2, run()),
    }[how]
    with pytest.raises(ValueError, match=r"'shared/kernel'.*strip"):
        prune()
    assert zeros(first) == 0
    keras_bimp.strip(second)
    keras_bimp.prune(first, 0.5)
    assert zeros(first) == 36


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_a_model_that_is_wrapped_again_is_no_other():
    model = dense_model()
    keras_bimp.prune(keras_bimp.wrap(model), 0.25)
    again = keras_bimp.wrap(model)
    keras_bimp.prune(again, 0.5)
    assert zeros(again) == 36


@pytest.mark.slow("jax", "torch")
@pytest.mark.every_backend
def test_loss_scaling_is_no_optimizer_of_its_own():
    optimizer = keras.optimizers.LossScaleOptimizer(momentum())
    model = wrapped(optimizer)
    assert fit(model, 2, run()).history["sparsity"] == [0.0, 0.5]
    for kernel, mask in kernels_and_masks(model):
        assert (kernel[~mask] == 0).all()
