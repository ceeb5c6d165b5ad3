"""Weight rewinding: restore weights from earlier epochs."""

import os
import pathlib

import keras

from keras_bimp._src.backends import as_array
from keras_bimp._src.backends import in_type_of
from keras_bimp._src.backends import put_back
from keras_bimp._src.keras_internals.optimizer_state import averages_of
from keras_bimp._src.masking import MaskedModel
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.retraining.array_files import read_arrays
from keras_bimp._src.retraining.array_files import write_arrays
from keras_bimp._src.retraining.learning_rates import step_count
from keras_bimp._src.slots import all_slots
from keras_bimp._src.slots import innermost
from keras_bimp._src.slots import leaves
from keras_bimp._src.slots import zero_pruned


class Rewinding:
    """Rewinds weights according to a plan.

    Keeps the model at the epochs of the dense phase that cycles rewind to, and
    restores the weights that remain after a pruning.

    Args:
        plan: A `Plan`. If it does not rewind, this does nothing.
        rewind_to: File of the weights to rewind to, or directory to keep them
            in, or `None` for memory.
    """

    def __init__(self, plan, rewind_to: str | os.PathLike | None):
        self._file = rewind_to if is_file_name(rewind_to) else None
        self._snapshots = Snapshots(None if self._file else rewind_to)
        # Cycles of the same length rewind to the same epoch.
        self._moments = {
            phase.name: "file" if self._file else plan.rewind_epoch(phase)
            for phase in plan.phases
            if plan.retraining.rewinds and phase.prunes
        }

    def prepare(self, model: keras.Model) -> None:
        """Read the file, or create the directory, if there is one.

        Raises:
            ValueError: If the file is not of this model, or the directory
                cannot be written.
        """
        if self._file:
            self._snapshots.keep_file("file", self._file, model)
        else:
            self._snapshots.make_directory()

    def forget(self, phase) -> None:
        """Mark `phase` as rewound by an earlier run."""
        self._moments.pop(phase.name, None)

    def state(self) -> dict:
        """Return the cycles that still rewind, and the copies in memory."""
        return {
            "moments": self._moments,
            "kept": [
                [moment, arrays]
                for moment, arrays in self._snapshots.in_memory.items()
                if moment != "file"
            ],
        }

    def set_state(self, state: dict) -> None:
        """Restore a state that `state` returned."""
        self._moments = state["moments"]
        self._snapshots.in_memory.update(state["kept"])

    def check(self, epoch: int, model: keras.Model) -> None:
        """Raise ValueError if a `fit` from `epoch` could not rewind."""
        if self._file:
            return
        for name, moment in self._moments.items():
            if moment >= epoch:
                continue
            if moment not in self._snapshots:
                raise ValueError(
                    f"{name} rewinds to the weights after {moment} epochs, "
                    f"but `fit` begins at epoch {epoch}. Pass `rewind_to=` "
                    "the directory in which the previous run kept them, or a "
                    f"file with them. Received: rewind_to="
                    f"{self._snapshots.directory}"
                )
            self._snapshots.check(moment, model)

    def keep(self, epoch: int, model: keras.Model) -> None:
        """Keep the model before `epoch`, if a cycle rewinds to it."""
        if epoch in self._moments.values():
            self._snapshots.keep(epoch, model)

    def rewind(self, phase, model: keras.Model, targets) -> None:
        """Rewind `model`, just pruned for `phase`, and keep its zeros."""
        if phase.name not in self._moments:
            return
        moment = self._moments.pop(phase.name)
        self._snapshots.restore(moment, model)
        hard = [target for target in targets if target.rule.hard]
        zero_pruned(
            [target.kernel.variable for target in hard],
            [target.mask for target in hard],
            model.optimizer,
        )
        if moment not in self._moments.values():
            self._snapshots.drop(moment)


def is_file_name(path) -> bool:
    """Return whether a `rewind_to` names a file, not a directory."""
    return path is not None and os.fspath(path).endswith(
        (".keras", ".weights.h5")
    )


class Snapshots:
    """Keeps and restores the variables of a model.

    These are its weights, except masks, and their optimizer slots. The
    optimizer's iteration count and learning rate are not restored. If there
    are no slots, before the first step or in a file without an optimizer, the
    current slots are kept.

    Args:
        directory: Directory with one file per copy. Defaults to memory.
    """

    def __init__(self, directory: str | os.PathLike | None = None):
        self.directory = None if directory is None else pathlib.Path(directory)
        self.in_memory = {}

    def __contains__(self, key):
        return key in self.in_memory or (
            self.directory is not None and self._path(key).exists()
        )

    def make_directory(self) -> None:
        """Create the directory, if one is given.

        Raises:
            ValueError: If it cannot be created or written to.
        """
        if self.directory is None:
            return
        try:
            write_arrays(self._path("test"), {})
            self._path("test").unlink()
        except OSError as error:
            raise ValueError(
                "`rewind_to` must be a directory that can be written to. "
                f"Received: rewind_to={self.directory}: {error}"
            ) from error

    def keep(self, key, model: keras.Model) -> None:
        """Keep the current variables of `model` as `key`."""
        variables = _weights(model)
        if step_count(model.optimizer):
            variables += all_slots(model.optimizer)
        arrays = [as_array(v) for v in variables]
        if self.directory is None:
            self.in_memory[key] = arrays
        else:
            names = map(str, range(len(arrays)))
            write_arrays(self._path(key), dict(zip(names, arrays, strict=True)))

    def keep_file(self, key, path: str | os.PathLike, model) -> None:
        """Keep the contents of a file of `model` as `key`.

        Raises:
            ValueError: If the file is not of this model.
        """
        weights, remembered = _read_file(path, model)
        self.in_memory[key] = [*weights, *remembered]

    def restore(self, key, model: keras.Model) -> None:
        """Restore `model` to the copy `key`."""
        arrays = self._arrays(key)
        variables = _weights(model)
        if len(arrays) > len(variables):
            variables += all_slots(model.optimizer)
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(in_type_of(variable, array))
        if len(arrays) == len(_weights(model)):
            _average_from_here(model.optimizer)

    def check(self, key, model: keras.Model) -> None:
        """Raise ValueError if the copy `key` is not of this model."""
        shapes = [array.shape for array in self._arrays(key)]
        weights = [tuple(v.shape) for v in _weights(model)]
        remembered = [tuple(v.shape) for v in all_slots(model.optimizer)]
        if shapes not in (weights, weights + remembered):
            raise ValueError(
                "`rewind_to` must hold weights of this model, trained with "
                f"this optimizer. Received: {self._path(key)}, whose "
                "variables have other shapes"
            )

    def drop(self, key) -> None:
        """Drop the copy `key` from memory."""
        self.in_memory.pop(key, None)

    def _arrays(self, key):
        if key in self.in_memory:
            return self.in_memory[key]
        return list(read_arrays(self._path(key), "rewind_to").values())

    def _path(self, key):
        return self.directory / f"epoch_{key}.npz"


def _weights(model):
    masks = {id(m) for layer in masked_layers(model) for m in layer.masks}
    return [weight for weight in model.weights if id(weight) not in masks]


def _average_from_here(optimizer):
    """Restart moving averages from the current weights."""
    for leaf in leaves(optimizer):
        for variable, average in averages_of(leaf):
            # A copy, because JAX donates each buffer once.
            average.assign(as_array(variable))


def _read_file(path, model):
    """Return the weights and the optimizer slots, if any."""
    path = os.fspath(path)
    try:
        if path.endswith(".keras"):
            loaded = keras.models.load_model(path)
            weights = [as_array(weight) for weight in _weights(loaded)]
            remembered = _remembered_alike(loaded, model)
        else:
            weights, remembered = _read_weights(path, model), []
    except Exception as error:
        raise ValueError(
            "`rewind_to` must be a file of this model, saved before it was "
            f"pruned. Received: rewind_to={path}: {error}"
        ) from error
    if [w.shape for w in weights] != [tuple(w.shape) for w in _weights(model)]:
        raise ValueError(
            "`rewind_to` must be a file of this model. "
            f"Received: rewind_to={path}, whose weights have other shapes"
        )
    return weights, remembered


def _remembered_alike(loaded, model):
    """Return the slots of a loaded optimizer, if it is of the same type.

    Builds the optimizer of `model` if needed.
    """
    optimizer = getattr(loaded, "optimizer", None)
    if type(innermost(optimizer)) is not type(innermost(model.optimizer)):
        return []
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    arrays = [as_array(v) for v in all_slots(optimizer)]
    shapes = [tuple(v.shape) for v in all_slots(model.optimizer)]
    return arrays if [array.shape for array in arrays] == shapes else []


def _read_weights(path, model):
    # Only Keras can read it. So load it into the model and restore that.
    plain = model.wrapper.layer if isinstance(model, MaskedModel) else model
    optimizer = getattr(plain, "optimizer", None)
    with put_back(plain.weights):
        # Skip an optimizer in the file, because the model's is in use.
        plain.load_weights(
            path, objects_to_skip=[] if optimizer is None else [optimizer]
        )
        return [as_array(weight) for weight in _weights(plain)]
