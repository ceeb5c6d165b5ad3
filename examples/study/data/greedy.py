"""Greedy decoding of translations."""

import keras
from keras import ops

from .vocabulary import BEGIN
from .vocabulary import END
from .vocabulary import PAD


class Greedy(keras.Model):
    """Takes the likeliest piece at each position until all sentences end.

    This is one compiled loop on every backend: `predict` maps batches of
    sources (batch, length) to pieces of translations of the same shape.


    Args:
        model: From `{"source": ..., "target": ...}`, both (batch, length), to
            logits (batch, length, vocabulary) of the piece that follows each
            piece of the target.
    """

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, source):
        length = source.shape[1]
        positions = ops.arange(length + 1)
        # Zeros of the source's batch size, which may be unknown.
        empty = ops.zeros_like(source[:, :1])
        target = ops.where(positions == 0, BEGIN, empty + PAD)
        ended = ops.zeros_like(source[:, 0], dtype="bool")

        def goes_on(position, target, ended):
            return ops.logical_and(
                position < length, ops.logical_not(ops.all(ended))
            )

        def step(position, target, ended):
            logits = self.model({"source": source, "target": target[:, :-1]})
            likeliest = ops.argmax(ops.take(logits, position, axis=1), axis=-1)
            piece = ops.where(ended, PAD, ops.cast(likeliest, target.dtype))
            target = ops.where(
                positions == position + 1, piece[:, None], target
            )
            ended = ops.logical_or(ended, piece == END)
            return position + 1, target, ended

        start = (ops.convert_to_tensor(0, "int32"), target, ended)
        _, target, _ = ops.while_loop(goes_on, step, start)
        return target[:, 1:]
