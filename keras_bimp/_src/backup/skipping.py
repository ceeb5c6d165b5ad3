"""Goes through batches of a running epoch without training on them."""

import warnings

import keras

from keras_bimp._src.backends import backend
from keras_bimp._src.backup.training_state import set_metrics
from keras_bimp._src.keras_internals.trainer import build_metrics
from keras_bimp._src.keras_internals.trainer import strategy_of


class Skipping:
    """Stands in for the train step of a model until some batches are drawn.

    Keras always begins an epoch at its first batch. The batches that the
    training had already are drawn, for the data may be at any place only after
    those before, and dropped.

    Args:
        model: The model whose `fit` it is.
        batches: Integer >= 1, how many batches to skip.
        metrics: What the metrics had counted after them.
        then: Callable to call when they are drawn.
    """

    def __init__(self, model: keras.Model, batches: int, metrics, then):
        self._model = model
        self._left = batches
        self._metrics = metrics
        self._then = then
        stop_skipping(self._model)
        self.stand_in()

    def stand_in(self) -> None:
        """Takes the place of the train step, which may have been made anew."""
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
        # Else the first step makes them, and they are to be set now.
        try:
            build_metrics(self._model, batch)
        except Exception as error:  # A train step may be of any kind.
            if self._metrics:
                warnings.warn(
                    "The metrics of this epoch count the rest of it only: "
                    f"they cannot be made before the first step: {error}",
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
        # The variables are empty now: what they hold is in the state.
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
        """Draws the batches of one call; some versions of Keras have."""
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
    """Puts the train step of a model back, if a `Skipping` stands in."""
    if isinstance(model.train_function, Skipping):
        model.train_function = model.train_function.train_function
