"""Goes through batches of a running epoch without training on them."""

import keras

from keras_bimp.backends import backend
from keras_bimp.backup.training_state import set_metrics


class Skipping:
    """Stands in for the train step of a model until some batches are drawn.

    Keras always begins an epoch at its first batch. The batches that the
    training had already are drawn, for the data may be at any place only after
    those before, and dropped.

    Args:
        model: The model that is in `fit`.
        batches: Integer >= 1, how many batches to skip.
        metrics: What the metrics had counted after them.
        then: Callable to call when they are drawn.
    """

    def __init__(self, model: keras.Model, batches: int, metrics, then):
        self._model = model
        self._left = batches
        self._metrics = metrics
        self._then = then
        stop_skipping(model)
        self._train = model.train_function
        model.train_function = getattr(self, f"_on_{backend()}")

    def _on_tensorflow(self, iterator):
        batch = self._draw(iterator)
        # Else the first step makes the metrics, which are to be set now.
        if self._model._distribute_strategy is None:
            self._model._symbolic_build(data_batch=batch)
        logs = {}
        if self._is_last():
            set_metrics(self._model, self._metrics)
            logs = self._model.get_metrics_result()
        return logs

    def _on_torch(self, data):
        self._draw(data)
        logs = {}
        if self._is_last():
            set_metrics(self._model, self._metrics)
            logs = self._model.get_metrics_result()
        return logs

    def _on_jax(self, state, data):
        self._draw(data)
        if not self._is_last():
            return {}, state
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

    def _is_last(self):
        self._left -= self._model.steps_per_execution
        if self._left > 0:
            return False
        stop_skipping(self._model)
        self._then()
        return True


def stop_skipping(model: keras.Model) -> None:
    """Puts the train step of a model back, if a `Skipping` stands in."""
    standing_in = getattr(model.train_function, "__self__", None)
    if isinstance(standing_in, Skipping):
        model.train_function = standing_in._train
