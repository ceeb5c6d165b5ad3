"""Models trained by optimizers other than the compiled one."""

import gc
import warnings

import keras
from keras import ops

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import backend
from keras_bimp._src.keras_internals.optimizer_state import counter_of
from keras_bimp._src.keras_internals.optimizer_state import trained_by
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.slots import innermost
from keras_bimp._src.slots import leaves


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Return all optimizers of a model: compiled ones and attributes."""
    compiled = model.optimizer if getattr(model, "compiled", False) else None
    found = [] if compiled is None else [compiled]
    if _trains_itself(model):
        found += _held(vars(model).values())
    return list({id(innermost(one)): one for one in found}.values())


def warn_if_unknown(model: keras.Model, kernels: list, known: list) -> None:
    """Warn if an unknown optimizer has slots of pruned weights.

    An optimizer that has made no step yet does not count.

    Args:
        model: A masked model.
        kernels: The kernels that are pruned for good.
        known: The optimizers that are known to train it.
    """
    if not kernels or any(_made_steps(one) for one in known):
        return
    masked = masked_layers(model)
    called = not known and any(layer.was_trained for layer in masked)
    if (
        called
        or (not known and _have_gradients(kernels))
        or _others_that_train(kernels, [*known, *map(_compiled, masked)])
    ):
        warnings.warn(
            "The optimizer that trains `model` is not known: its momentum "
            "moves pruned weights. "
            "The masks hold, but files saved before `strip` are not sparse. "
            "Pass `optimizer`, or an empty list if there is none.",
            stacklevel=3,
        )


def _others_that_train(kernels, known):
    """Return whether another Keras optimizer has trained some kernels."""
    ids = {id(kernel) for kernel in kernels}
    of_known = {id(leaf) for one in known if one for leaf in leaves(one)}

    def found():
        return any(
            # Check the type, because `isinstance` would load lazy modules.
            issubclass(type(one), keras.optimizers.Optimizer)
            and id(one) not in of_known
            and any(id(v) in ids for v in trained_by(one))
            and _made_steps(one)
            for one in gc.get_objects()
        )

    if not found():
        return False
    gc.collect()  # It may be unreferenced.
    return found()


def _made_steps(optimizer):
    return any(
        leaf.built and int(as_array(counter_of(leaf))) > 0
        for leaf in leaves(optimizer)
    )


def _compiled(masked):
    return getattr(masked.layer, "optimizer", None)


def _have_gradients(kernels):
    """Return whether a torch loop has computed gradients of some kernels."""
    return backend() == "torch" and any(
        kernel.value.grad is not None for kernel in kernels
    )


def check_own_optimizers(model: keras.Model) -> None:
    """Raise ValueError if a model has optimizers besides the compiled one.

    Only its `train_step` knows which optimizer trains which kernel.
    """
    others = [
        f"{name} ({type(innermost(one)).__name__})"
        for name, value in vars(model).items()
        if not name.startswith("_self_")  # TensorFlow lists them twice.
        for one in (_held([value]) if _trains_itself(model) else ())
        if innermost(one) is not innermost(model.optimizer)
    ]
    if others:
        raise ValueError(
            "`model` must be trained by the optimizer that it is compiled "
            "with, because the callbacks set its learning rate. Received: a "
            f"model of class {type(model).__name__} with its own `train_step` "
            f"and optimizers: {', '.join(others)}. Prune it with "
            "`keras_bimp.prune(model, ...)` in a callback or loop, which finds "
            "them"
        )


class Steps:
    """Checks that the compiled optimizer makes the training steps.

    Args:
        model: A compiled model, at the start of its training.
    """

    def __init__(self, model: keras.Model):
        self._begin = _counts(model.optimizer)
        self._made = False
        self._warned = False

    def check(self, model: keras.Model, found) -> None:
        """Check the optimizer. Called at the end of each epoch.

        Warns if pruned weights are no longer 0.

        Raises:
            ValueError: If the optimizer made no step.
        """
        self._made = self._made or _counts(model.optimizer) != self._begin
        if not self._made:
            raise ValueError(
                "`model` must be trained by the optimizer that it is compiled "
                "with, because the callbacks set its learning rate. Received: "
                f"{type(innermost(model.optimizer)).__name__}, which made no "
                "step in the first epoch. If a `train_step` has its own "
                "optimizers, prune with `keras_bimp.prune(model, ..., "
                "optimizer=[...])` in a callback or loop"
            )
        if not self._warned:
            self._warned = warn_if_moved(found)


def warn_if_moved(found) -> bool:
    """Warn if weights that are pruned for good are not 0.

    Args:
        found: The `Targets` of the model.

    Returns:
        Whether it warned.
    """
    moved = [
        target.path
        for target in found.targets
        if target.rule.hard and _moved(target.kernel.variable, target.mask)
    ]
    if moved:
        warnings.warn(
            f"Pruned weights of {', '.join(moved)} are no longer 0: an unknown "
            "optimizer trains them. The masks hold, and `strip` "
            "writes zeros, but files saved before are not sparse. Prune with "
            "`keras_bimp.prune(model, ..., optimizer=...)` and pass all "
            "optimizers that train them, and wrap models that share layers as "
            "one.",
            stacklevel=3,
        )
    return bool(moved)


def _moved(kernel, mask):
    there = ops.abs(kernel.value) > 0  # Not NaN, which is reported elsewhere.
    return bool(ops.any(ops.logical_and(there, ops.logical_not(mask.value))))


def _trains_itself(model):
    method = getattr(type(model), "train_step", None)
    return method is not None and not method.__module__.startswith("keras.")


def _held(values):
    """Return the optimizers among some values, including nested ones."""
    found = []
    for value in values:
        if isinstance(value, keras.optimizers.Optimizer):
            found.append(value)
        elif isinstance(value, dict):
            found += _held(value.values())
        elif isinstance(value, list | tuple):
            found += _held(value)
    return found


def _counts(optimizer):
    """Return counters that change with every step, even a skipped one."""
    counts = []
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        if optimizer.built:
            counts += [optimizer.step_counter, optimizer.dynamic_scale]
        else:
            counts += [0, optimizer.initial_scale]
        optimizer = optimizer.inner_optimizer
    counts.append(counter_of(optimizer))
    return [
        float(as_array(count) if isinstance(count, keras.Variable) else count)
        for count in counts
    ]
