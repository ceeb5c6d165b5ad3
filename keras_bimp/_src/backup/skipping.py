"""Skip batches of an epoch without training on them."""

import warnings

import keras

from keras_bimp._src.backends import backend
from keras_bimp._src.backup.training_state import set_metrics
from keras_bimp._src.keras_internals.trainer import build_metrics
from keras_bimp._src.keras_internals.trainer import strategy_of


class Skipping:
    """Replaces the train step of a model until some batches are drawn.

    Keras always begins an epoch at its first batch. The batches that were
    already trained on must be drawn, since the data may only be readable in
    order, and are dropped.

    Args:
        model: The model being fit.
        batches: Integer >= 1, how many batches to skip.
        metrics: The state of the metrics after these batches.
        then: Callable to call once they are drawn.
    """

    def __init__(self, model: keras.Model, batches: int, metrics, then):
        self._model = model
        self._left = batches
        self._metrics = metrics
        self._then = then
        stop_skipping(self._model)
        self.stand_in()

    def stand_in(self) -> None:
        """Replace the train step, even after it was recreated."""
        present = self._model.train_function
        if present is not self:
            self.train_function = present
            self._model.train_function = self

    def __call__(self, *args):
        return getattr(self, f"_on_{backend()}")(*args)

    def _on_tensorflow(self, iterator):
        batch = self._draw(iterator)
        if strategy_of(self._model) is None:
            self._make_metrics(batch)
        return self._set_metrics()

    def _make_metrics(self, batch):
        # Otherwise the first step would create them, but we set them now.
        try:
            build_metrics(self._model, batch)
        except Exception as error:  # A custom train step can fail in any way.
            if self._metrics:
                warnings.warn(
                    "The metrics of this epoch count only the rest of it: "
                    f"they cannot be created before the first step: {error}",
                    stacklevel=2,
                )
            self._metrics = []

    def _on_torch(self, data):
        self._draw(data)
        return self._set_metrics()

    def _set_metrics(self):
        self._count_down()
        if not self._metrics:
            return {}
        set_metrics(self._model, self._metrics)
        return self._model.get_metrics_result()

    def _on_jax(self, state, data):
        self._draw(data)
        self._count_down()
        # The variables are empty now; their values are in the state.
        *others, counted = state
        arrays = [
            keras.ops.convert_to_tensor(array, value.dtype)
            for array, value in zip(self._metrics, counted, strict=True)
        ]
        pairs = zip(self._model.metrics_variables, arrays, strict=True)
        with keras.StatelessScope(list(pairs)):
            logs = self._model.get_metrics_result()
        return logs, (*others, arrays)

    def _draw(self, data):
        """Draw the batches of one call; some Keras versions already have."""
        if isinstance(data, list | tuple):
            return data[0]
        for _ in range(min(self._left, self._model.steps_per_execution)):
            batch = next(data)
        return batch

    def _count_down(self):
        self._left -= self._model.steps_per_execution
        if self._left <= 0:
            stop_skipping(self._model)
            self._then()


def stop_skipping(model: keras.Model) -> None:
    """Restore the train step of a model, if a `Skipping` replaced it."""
    if isinstance(model.train_function, Skipping):
        model.train_function = model.train_function.train_function
