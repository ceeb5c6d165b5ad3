"""Accuracy over the pieces of sentences."""

import keras

from .vocabulary import PAD


@keras.saving.register_keras_serializable(package="study")
class TokenAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The accuracy over pieces, ignoring padding."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, y_pred, y_true != PAD)
