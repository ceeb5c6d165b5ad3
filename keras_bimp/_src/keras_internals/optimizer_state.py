"""Private Keras attributes of optimizers."""

import functools
from collections.abc import Iterator

import keras

# The attribute of an optimizer for the variables that `add_state` added.
_ADDED = "_keras_bimp_added"
_OWN_LISTS = ("_variables", "_trainable_variables", _ADDED)


class ChangesGradients:
    """Mixin for optimizers that change gradients.

    They are changed after they are unscaled, accumulated and clipped.
    """

    def changed(self, gradients: list, variables: list) -> list:
        """Returns the gradients to apply."""
        raise NotImplementedError

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        grads = self.changed(list(grads), trainable_variables)
        super()._backend_update_step(grads, trainable_variables, learning_rate)


def counter_of(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Returns the step counter that a schedule is called with.

    This is not `iterations`, which gradient accumulation divides.
    """
    return optimizer._iterations


def trained_by(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Returns the variables that an optimizer trains; `[]` if not built."""
    return vars(optimizer).get("_trainable_variables", [])


def rate_of(optimizer: keras.optimizers.Optimizer):
    """Returns the learning rate: a variable, a schedule or a callable."""
    return optimizer._learning_rate


def replace_rate(optimizer: keras.optimizers.Optimizer, rate) -> None:
    """Replaces the learning rate, whatever its type."""
    optimizer._learning_rate = rate


def set_variables(
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    checkpointed: list[keras.Variable] | None = None,
) -> None:
    """Sets the variables of an optimizer and of its TensorFlow checkpoint.

    TensorFlow refuses to save a list that was changed other than at its end,
    which Keras does when a schedule replaces a learning rate.

    Args:
        optimizer: The optimizer.
        variables: The optimizer's variables.
        checkpointed: The variables in a checkpoint. Defaults to `variables`.
    """
    variables = list(variables)
    store = optimizer._tracker.config
    store["variables"] = (store["variables"][0], variables)
    if keras.backend.backend() != "tensorflow":
        vars(optimizer)["_variables"] = variables
        return
    import tensorflow as tf

    tracking = tf.__internal__.tracking
    if checkpointed is None:
        # One list, so that both get any variables that are added later.
        variables = checkpointed = tracking.wrap(variables)
        store["variables"] = (store["variables"][0], variables)
    else:
        checkpointed = tracking.wrap(checkpointed)
    vars(optimizer)["_variables"] = variables
    optimizer._track_trackable(checkpointed, "_variables", overwrite=True)


def add_state(around: list, variables: list[keras.Variable]) -> None:
    """Passes additional variables, which are not saved, to JAX's train step.

    The compiled step is a function of its arguments. It keeps the values that
    anything else had when it was compiled.

    Args:
        around: Nested optimizers, outermost first; the last holds the
            variables.
        variables: The variables to add, until `remove_state`.
    """
    inner = around[-1]
    set_variables(inner, [*inner.variables, *variables])
    vars(inner)[_ADDED] = [*added_state(inner), *variables]
    for optimizer in around:
        for name in ("save_own_variables", "load_own_variables"):
            vars(optimizer)[name] = functools.partial(
                _without_added, inner, getattr(type(optimizer), name), optimizer
            )


def added_state(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Returns the variables that `add_state` added to an optimizer."""
    return vars(optimizer).get(_ADDED, [])


def remove_state(around: list) -> None:
    """Removes the variables that `add_state` added."""
    if not added_state(around[-1]):
        return
    _set_without_added(around[-1])
    del vars(around[-1])[_ADDED]
    for optimizer in around:
        del vars(optimizer)["save_own_variables"]
        del vars(optimizer)["load_own_variables"]


def _without_added(inner, method, optimizer, store):
    variables = inner.variables
    _set_without_added(inner)
    try:
        method(optimizer, store)
    finally:
        set_variables(inner, variables)


def _set_without_added(optimizer):
    added = {id(variable) for variable in added_state(optimizer)}
    set_variables(
        optimizer, [v for v in optimizer.variables if id(v) not in added]
    )


def slots_of(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> list[tuple[str, keras.Variable]] | None:
    """Returns the slots of an optimizer for a variable that it trains.

    Returns:
        Pairs (name of the kind of slot, slot); `None` if it does not train
        this variable.

    Raises:
        ValueError: If it has a variable of this shape that is not a known
            slot.
    """
    trained = [id(v) for v in optimizer._trainable_variables]
    if id(variable) not in trained:
        return None
    index = trained.index(id(variable))
    shape = tuple(variable.shape)
    known = {*trained, *map(id, added_state(optimizer))}
    found = []
    for name, slots in lists_of_slots(optimizer):
        known |= {id(slot) for slot in slots}
        slot = slots[index]
        if slot is not None and tuple(slot.shape) == shape:
            found.append((name, slot))
    for other in optimizer.variables if shape else ():
        if tuple(other.shape) == shape and id(other) not in known:
            raise ValueError(
                "`optimizer` must keep its slots in attributes that are lists "
                "with one entry per trained variable, as the optimizers of "
                "Keras do. Received: "
                f"optimizer={type(optimizer).__name__}, whose variable "
                f"'{other.path}' is in no such list"
            )
    return found


def lists_of_slots(
    optimizer: keras.optimizers.Optimizer,
) -> Iterator[tuple[str, list | tuple]]:
    """Yields (attribute, list with a slot or `None` per trained variable).

    All slots are variables of the optimizer.
    """
    trained = {id(variable) for variable in optimizer._trainable_variables}
    own = {id(variable) for variable in optimizer.variables} - trained
    for name, slots in vars(optimizer).items():
        if name in _OWN_LISTS or not isinstance(slots, list | tuple):
            continue
        if len(slots) == len(trained) and all(
            slot is None or id(slot) in own for slot in slots
        ):
            yield name, slots


def averages_of(optimizer: keras.optimizers.Optimizer) -> list[tuple]:
    """Returns pairs (variable, its moving average), if there are any."""
    if not (optimizer.built and optimizer.use_ema):
        return []
    return list(
        zip(
            optimizer._trainable_variables,
            optimizer._model_variables_moving_average,
            strict=True,
        )
    )
