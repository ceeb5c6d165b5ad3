"""What Keras keeps of the training of a model."""

import keras
from keras.src.trainers.data_adapters.array_slicing import (
    train_validation_split,
)

# What Keras' own callbacks remember from epoch to epoch in attributes.
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
    """Has `fit` begin at an epoch, or where its `initial_epoch` says."""
    model._initial_epoch = epoch


def strategy_of(model: keras.Model):
    """The `tf.distribute` strategy that a model was made under, if any."""
    return getattr(model, "_distribute_strategy", None)


def compile_config_of(model: keras.Model) -> dict | None:
    """The arguments of `compile`, as objects; `None` if it is not compiled."""
    config = getattr(model, "_compile_config", None)
    return None if config is None else config.config


def lists_its_metrics(model: keras.Model) -> bool:
    """Whether a model knows its metrics, or has none compiled."""
    compiled = getattr(model, "_compile_metrics", None)
    return compiled is None or compiled.built


def loss_of(model: keras.Model, **given):
    """The loss that a model computes, as its steps do."""
    return model._compute_loss(**given)


def build_metrics(model: keras.Model, batch) -> None:
    """Makes the variables that the first step would make."""
    model._symbolic_build(data_batch=batch)


def input_signature(model: keras.Model) -> list:
    """What `tf.saved_model.save` takes a model to be called with."""
    return model._default_save_signature.input_signature


class SavedWithSignature:
    """A base of models that say how TensorFlow calls them once saved."""

    def save_signature(self):
        """A `tf.function` with an input signature."""
        raise NotImplementedError

    @property
    def _default_save_signature(self):
        return self.save_signature()


class QuickSteps:
    """A base of models whose steps on JAX take less time in between.

    In each of them Keras assigns all arrays of the state to an attribute, and
    looks through these for variables. There are none.
    """

    def __setattr__(self, name, value):
        if name == "_jax_state":
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)


def validation_split_of(given: dict):
    """The validation data of a `fit`, split off as Keras does if asked.

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
        return None  # It is not for this to say.
