"""What Keras keeps of an optimizer."""

from collections.abc import Iterator

import keras

_OWN_LISTS = ("_variables", "_trainable_variables")


class ChangesGradients:
    """A base of optimizers, before that of Keras, that change gradients.

    After they are unscaled, accumulated and clipped.
    """

    def changed(self, gradients: list, variables: list) -> list:
        """Returns the gradients to apply."""
        raise NotImplementedError

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        grads = self.changed(list(grads), trainable_variables)
        super()._backend_update_step(grads, trainable_variables, learning_rate)


def counter_of(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """The count of steps that a schedule is called with.

    Not `iterations`: gradient accumulation divides that.
    """
    return optimizer._iterations


def rate_of(optimizer: keras.optimizers.Optimizer):
    """What the learning rate is: a variable, a schedule or a callable."""
    return optimizer._learning_rate


def replace_rate(optimizer: keras.optimizers.Optimizer, rate) -> None:
    """Makes something else the learning rate, whatever it was."""
    optimizer._learning_rate = rate


def set_variables(
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    checkpointed: list[keras.Variable] | None = None,
) -> None:
    """Sets the variables of an optimizer, and those of a TensorFlow checkpoint.

    TensorFlow refuses to save a list of which anything but its end was
    changed, as Keras does with this one where a schedule replaces a rate.

    Args:
        optimizer: The optimizer.
        variables: Those of its own.
        checkpointed: Those of a checkpoint. Defaults to the same.
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
        # One list: variables that are made later are in both.
        variables = checkpointed = tracking.wrap(variables)
        store["variables"] = (store["variables"][0], variables)
    else:
        checkpointed = tracking.wrap(checkpointed)
    vars(optimizer)["_variables"] = variables
    optimizer._track_trackable(checkpointed, "_variables", overwrite=True)


def slots_of(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> list[tuple[str, keras.Variable]] | None:
    """What an optimizer holds for each entry of a variable that it trains.

    Returns:
        Pairs (name of the kind of slot, variable); `None` if it does not train
        this variable.

    Raises:
        ValueError: If it has a variable of this shape that is not known to be
            a slot of anything.
    """
    trained = [id(v) for v in optimizer._trainable_variables]
    if id(variable) not in trained:
        return None
    index = trained.index(id(variable))
    shape = tuple(variable.shape)
    known, found = set(trained), []
    for name, slots in lists_of_slots(optimizer):
        known |= {id(slot) for slot in slots}
        slot = slots[index]
        if slot is not None and tuple(slot.shape) == shape:
            found.append((name, slot))
    for other in optimizer.variables if shape else ():
        if tuple(other.shape) == shape and id(other) not in known:
            raise ValueError(
                "`optimizer` must keep what it remembers of the variables it "
                "trains in attributes that are lists, one entry each, as the "
                "optimizers of Keras do. Received: "
                f"optimizer={type(optimizer).__name__}, whose variable "
                f"'{other.path}' is in none"
            )
    return found


def lists_of_slots(
    optimizer: keras.optimizers.Optimizer,
) -> Iterator[tuple[str, list]]:
    """Yields (attribute, list): one variable or `None` per trained variable.

    All of them are variables of the optimizer.
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
    """Pairs (variable, its moving average), if an optimizer has averages."""
    if not (optimizer.built and optimizer.use_ema):
        return []
    return list(
        zip(
            optimizer._trainable_variables,
            optimizer._model_variables_moving_average,
            strict=True,
        )
    )
