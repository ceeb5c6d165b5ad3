"""Masked models that keep the KerasHub task API of the model inside."""

import functools
import inspect

import keras

from keras_bimp._src.keras_internals.functional_graphs import OF_THE_GRAPH
from keras_bimp._src.keras_internals.layers import SavedAsLayer

# Methods that a subclass of `keras.Model` would lose inside a wrapped model.
_TRAINER_METHODS = (
    "fit",
    "evaluate",
    "predict",
    "compile",
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "make_train_function",
    "make_test_function",
    "make_predict_function",
)


def check_trainer(model: keras.Model) -> None:
    """Refuse models with custom training, which wrapping would change.

    KerasHub tasks are supported: they override only what surrounds a call of
    the whole model.

    Raises:
        ValueError: If the class of `model` customizes training.
    """
    name = _refused(type(model))
    if name is not None:
        raise ValueError(
            f"`model` must not have its own `{name}()`: a model around it "
            "would lose it. Received: model of class "
            f"{type(model).__name__}, which overrides `{name}`. Instead, "
            f"{how_to_mask(model)}"
        )


def how_to_mask(model: keras.Model) -> str:
    """Return advice on how to mask a model."""
    kind = type(model)
    around = "put `keras_bimp.Masked(layer)` around the layers inside the model"
    if not isinstance(model, keras.Model) or _refused(kind) is None:
        wrap = "call `model = keras_bimp.wrap(model)`"
        return wrap if _of_the_hub(kind) else f"{wrap}, or {around}"
    if not getattr(model, "inputs", None):
        return around
    graph = (
        "train its graph, `keras_bimp.wrap(keras.Model(model.inputs, "
        "model.outputs))`, in a custom loop with `keras_bimp.prune()`"
    )
    return graph if _of_the_hub(kind) else f"{around}, or {graph}"


def class_around(model: keras.Model, base: type) -> type:
    """Return the class of the masked model for a given model.

    Args:
        model: The model inside.
        base: The general class of masked models.

    Returns:
        `base`, or a subclass of `base` and of the KerasHub task class, which
        keeps `fit`, `preprocessor`, `generate` and similar attributes.
    """
    if not _own_trainer_methods(type(model)):
        return base
    return _class_of(base, type(model))


def has_own_steps(kind: type) -> bool:
    """Return whether a class customizes its losses or training steps."""
    around = {"fit", "evaluate", "predict", "compile"}
    return not around.issuperset(_own_trainer_methods(kind))


def as_not_compiled(model: keras.Model) -> None:
    """Undo the compilation that a task runs when it is created."""
    if _package(type(model).compile) == "keras_hub":
        model.compiled = False
        model.optimizer = None


def compile_as_keras_does(target: keras.Model, source: keras.Model, **config):
    """Compile `target`, including arguments that a task's `compile` adds.

    A task's `compile` takes other arguments than the one in Keras. They are
    copied from the attributes of `source`.
    """
    if _package(type(target).compile) != "keras_hub":
        target.compile(**config)
        return
    keras.Model.compile(target, **config)
    for name in _added_to_compile(type(target)):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))
    if getattr(target, "generate_function", None) is not None:
        target.generate_function = None  # Compiled with the old settings.


class AroundTask(SavedAsLayer):
    """Mixin for masked models around a KerasHub task.

    Comes before the task class in the MRO, so that the task's methods find
    the task's attributes and a call with masks.
    """

    def __getattr__(self, name):
        if _is_of_the_task(name):
            task = self.wrapper.layer
            if hasattr(task, name):
                return getattr(task, name)
        return super().__getattr__(name)

    def __setattr__(self, name, value):
        if _is_own_property(type(self), name):
            # For example, `task.preprocessor = None`.
            setattr(self.wrapper.layer, name, value)
            for each in ("train", "test", "predict"):
                setattr(self, f"{each}_function", None)
            return
        super().__setattr__(name, value)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            for name in _added_to_compile(type(self)):
                if hasattr(self, name):
                    config[name] = keras.saving.serialize_keras_object(
                        getattr(self, name)
                    )
        return config

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        added = {
            name: config.pop(name)
            for name in _added_to_compile(type(self))
            if name in config
        }
        keras.Model.compile(self, **config)
        for name, value in added.items():
            setattr(self, name, value)
        self.optimizer.build(self.trainable_variables)

    def save_to_preset(self, *args, **kwargs):
        """Refuse to save a preset, which cannot hold masks."""
        raise ValueError(
            "A wrapped task cannot be saved as a preset. Strip it first: "
            "`keras_bimp.strip(model).save_to_preset(...)`. "
            f"Received: {self!r}"
        )


class AroundGenerator(AroundTask):
    """Mixin for masked models around a task that generates step by step."""

    generate_function = None

    def generate_step(self, *args, **kwargs):
        """Run the task's `generate_step` with masked kernels."""
        sampler = getattr(self, "sampler", None)
        with self.wrapper.scope(also=getattr(sampler, "variables", ())):
            return super().generate_step(*args, **kwargs)


@functools.cache
def _class_of(base, kind):
    around = AroundGenerator if hasattr(kind, "generate_step") else AroundTask
    made = type(
        f"Masked{kind.__name__}",
        (around, base, kind),
        {"__doc__": base.__doc__, "__module__": base.__module__},
    )
    # A saved file names `base`, whose `from_config` finds this class again.
    register = keras.saving.register_keras_serializable(
        package="keras_bimp", name=base.__name__
    )
    register(made)
    register(base)
    return made


def _own_trainer_methods(kind):
    return [
        name
        for name in _TRAINER_METHODS
        if _package(getattr(kind, name)) != "keras"
    ]


def _refused(kind):
    """Return the first method of a class that wrapping would lose."""
    for name in _own_trainer_methods(kind):
        if _package(getattr(kind, name)) != "keras_hub":
            return name
    return None


def _of_the_hub(kind):
    """Return whether a class is from KerasHub."""
    return any(_package(each) == "keras_hub" for each in kind.__mro__)


def _package(defined):
    return defined.__module__.partition(".")[0]


def _added_to_compile(kind):
    known = inspect.signature(keras.Model.compile).parameters
    return [
        name
        for each in kind.__mro__
        if "compile" in vars(each)
        for name, parameter in inspect.signature(
            each.compile
        ).parameters.items()
        if name not in known and parameter.kind != parameter.VAR_KEYWORD
    ]


def _is_of_the_task(name):
    return (
        name != "wrapper"
        and not name.startswith(("__", "_self_"))
        and (name in OF_THE_GRAPH or name not in _names_of_keras())
    )


def _is_own_property(kind, name):
    """Return whether an attribute is a property of a KerasHub class."""
    owner = next((each for each in kind.__mro__ if name in vars(each)), None)
    return (
        owner is not None
        and _package(owner) == "keras_hub"
        and isinstance(vars(owner)[name], property)
    )


@functools.cache
def _names_of_keras():
    """Return the attributes of any Keras model, not to take from a task."""
    # Named explicitly, so that the numbering of the user's layers is kept.
    inputs = keras.Input((1,), name="inputs")
    outputs = keras.layers.Identity(name="outputs")(inputs)
    model = keras.Model(inputs, outputs, name="names")
    model.compile("sgd", "mse")
    return frozenset(vars(model))
