"""Weight rewinding: what a model was at the end of earlier epochs."""

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
    """Weight rewinding, as a plan says.

    Keeps the model at the moments of the dense phase that cycles rewind to,
    and sets the weights that a pruning left back to what they were.

    Args:
        plan: A `Plan`. If it does not rewind, neither does this.
        rewind_to: File of the weights to rewind to, or directory to keep them
            in, or `None` for memory.
    """

    def __init__(self, plan, rewind_to: str | os.PathLike | None):
        self._file = rewind_to if is_file_name(rewind_to) else None
        self._snapshots = Snapshots(None if self._file else rewind_to)
        # Cycles of the same length share what they rewind to.
        self._moments = {
            phase.name: "file" if self._file else plan.rewind_epoch(phase)
            for phase in plan.phases
            if plan.retraining.rewinds and phase.prunes
        }

    def prepare(self, model: keras.Model) -> None:
        """Reads the file, or makes the directory, if there is one.

        Raises:
            ValueError: If it is no file of this model, or no directory.
        """
        if self._file:
            self._snapshots.keep_file("file", self._file, model)
        else:
            self._snapshots.make_directory()

    def forget(self, phase) -> None:
        """Says that `phase` has rewound already, in a run before."""
        self._moments.pop(phase.name, None)

    def state(self) -> dict:
        """Which cycles are still to rewind, and what is kept in memory."""
        return {
            "moments": self._moments,
            "kept": [
                [moment, arrays]
                for moment, arrays in self._snapshots.in_memory.items()
                if moment != "file"
            ],
        }

    def set_state(self, state: dict) -> None:
        """Sets it to what `state` returned."""
        self._moments = state["moments"]
        self._snapshots.in_memory.update(state["kept"])

    def check(self, epoch: int, model: keras.Model) -> None:
        """Raises ValueError if a `fit` from `epoch` on could not rewind."""
        if self._file:
            return
        for name, moment in self._moments.items():
            if moment >= epoch:
                continue
            if moment not in self._snapshots:
                raise ValueError(
                    f"{name} rewinds to the weights after {moment} epochs, "
                    f"but `fit` begins at epoch {epoch}. Pass `rewind_to=` "
                    "the directory in which the run before kept them, or a "
                    f"file of them. Received: rewind_to="
                    f"{self._snapshots.directory}"
                )
            self._snapshots.check(moment, model)

    def keep(self, epoch: int, model: keras.Model) -> None:
        """Keeps what `model` is before `epoch`, if a cycle rewinds to it."""
        if epoch in self._moments.values():
            self._snapshots.keep(epoch, model)

    def rewind(self, phase, model: keras.Model, targets) -> None:
        """Sets `model`, just pruned for `phase`, back, but for its zeros."""
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
    """Whether a `rewind_to` names a file of weights, not a directory."""
    return path is not None and os.fspath(path).endswith(
        (".keras", ".weights.h5")
    )


class Snapshots:
    """Keeps the variables of a model at some moments, and brings them back.

    These are its weights, except for masks, and what the optimizer remembers
    of them: momenta, moments, averages. The optimizer's iteration count and
    learning rate go on. Where nothing is remembered, before the first step or
    in a file without an optimizer, it goes on with what it remembers now.

    Args:
        directory: Where to keep them, one file each. Defaults to memory.
    """

    def __init__(self, directory: str | os.PathLike | None = None):
        self.directory = None if directory is None else pathlib.Path(directory)
        self.in_memory = {}

    def __contains__(self, key):
        return key in self.in_memory or (
            self.directory is not None and self._path(key).exists()
        )

    def make_directory(self) -> None:
        """Makes the directory, if there is to be one.

        Raises:
            ValueError: If it cannot be made or written to.
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
        """Keeps what `model` is now, as `key`."""
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
        """Keeps what a file of `model` holds, as `key`.

        Raises:
            ValueError: If the file is none of this model.
        """
        weights, remembered = _read_file(path, model)
        self.in_memory[key] = [*weights, *remembered]

    def restore(self, key, model: keras.Model) -> None:
        """Brings back to `model` what was kept as `key`."""
        arrays = self._arrays(key)
        variables = _weights(model)
        if len(arrays) > len(variables):
            variables += all_slots(model.optimizer)
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(in_type_of(variable, array))
        if len(arrays) == len(_weights(model)):
            _average_from_here(model.optimizer)

    def check(self, key, model: keras.Model) -> None:
        """Raises ValueError if what is kept as `key` is not of this model."""
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
        """Forgets what is kept in memory as `key`."""
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
    """Lets moving averages of weights begin at what the weights are now."""
    for leaf in leaves(optimizer):
        for variable, average in averages_of(leaf):
            # A copy: JAX donates each buffer once.
            average.assign(as_array(variable))


def _read_file(path, model):
    """Returns the weights, and what the optimizer remembers or nothing."""
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
    """What a loaded optimizer remembers, nothing if it is of another kind.

    Builds that of `model` if nothing has yet.
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
    # Only Keras knows how to read it: into the model, whose own come back.
    plain = model.wrapper.layer if isinstance(model, MaskedModel) else model
    optimizer = getattr(plain, "optimizer", None)
    with put_back(plain.weights):
        # The file may hold an optimizer too, for which this one is in use.
        plain.load_weights(
            path, objects_to_skip=[] if optimizer is None else [optimizer]
        )
        return [as_array(weight) for weight in _weights(plain)]
