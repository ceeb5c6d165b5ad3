"""Private Keras attributes of the training of a model."""

import keras
from keras.src.trainers.data_adapters.array_slicing import (
    train_validation_split,
)

# The attributes that Keras' callbacks keep from epoch to epoch.
REMEMBERED = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "best",
        "best_epoch",
        "best_weights",
        "stopped_epoch",
    ),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def begin_at(model: keras.Model, epoch: int | None) -> None:
    """Makes `fit` begin at an epoch; `None` leaves it to `initial_epoch`."""
    model._initial_epoch = epoch


def strategy_of(model: keras.Model):
    """Returns the `tf.distribute` strategy of a model, if any."""
    return getattr(model, "_distribute_strategy", None)


def compile_config_of(model: keras.Model) -> dict | None:
    """Returns the arguments of `compile`; `None` if it is not compiled."""
    config = getattr(model, "_compile_config", None)
    return None if config is None else config.config


def lists_its_metrics(model: keras.Model) -> bool:
    """Whether a model can list its metrics, or has none compiled."""
    compiled = getattr(model, "_compile_metrics", None)
    return compiled is None or compiled.built


def loss_of(model: keras.Model, **given):
    """Computes the loss of a model as its train step does."""
    return model._compute_loss(**given)


def build_metrics(model: keras.Model, batch) -> None:
    """Creates the metric variables that the first step would create."""
    model._symbolic_build(data_batch=batch)


def input_signature(model: keras.Model) -> list:
    """Returns the inputs that `tf.saved_model.save` calls a model with."""
    return model._default_save_signature.input_signature


class SavedWithSignature:
    """Mixin for models with a custom signature in a TensorFlow SavedModel."""

    def save_signature(self):
        """Returns a `tf.function` with an input signature."""
        raise NotImplementedError

    @property
    def _default_save_signature(self):
        return self.save_signature()


class QuickSteps:
    """Mixin that makes the steps of a model faster on JAX.

    In each step, Keras assigns all arrays of the state to an attribute and
    searches them for variables. This skips the search.
    """

    def __setattr__(self, name, value):
        if name == "_jax_state":
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)


def validation_split_of(given: dict):
    """Returns the validation data of a `fit`, split off as Keras does.

    Args:
        given: The arguments of `fit`, by name.
    """
    share = given.get("validation_split")
    if given.get("validation_data") is not None or not share:
        return given.get("validation_data")
    arrays = tuple(given.get(name) for name in ("x", "y", "sample_weight"))
    try:
        return train_validation_split(arrays, validation_split=share)[1]
    except ValueError:
        return None  # `fit` raises the error.
