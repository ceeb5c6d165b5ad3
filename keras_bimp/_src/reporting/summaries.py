"""The sparsity of every kernel, for TensorBoard."""

import os

import keras

from keras_bimp._src.checks import check_integer
from keras_bimp._src.masking import masked_layers
from keras_bimp._src.masking import unique_paths
from keras_bimp._src.metrics import EffectiveKernels


class PruningSummaries(keras.callbacks.Callback):
    """Writes the sparsity of every masked kernel for TensorBoard.

    The other numbers of a run, its sparsity and learning rate say, are in the
    logs: `keras.callbacks.TensorBoard`, listed after `keras_bimp.callbacks`,
    shows them without this.

    Args:
        log_dir: Folder of the event files, the same as that of `TensorBoard`
            if you like: these lie in a folder `pruning` of their own in it.
        update_freq: Integer >= 1: every so many epochs.

    Raises:
        ValueError: When `fit` begins, if the model is not wrapped, or
            TensorFlow, which writes the files on every backend, or
            TensorBoard is missing.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[
        *keras_bimp.callbacks(0.9, dense_epochs=5),
        keras_bimp.PruningSummaries("logs"),
    ])
    ```
    """

    def __init__(self, log_dir: str | os.PathLike, update_freq: int = 1):
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.update_freq = check_integer("update_freq", update_freq, minimum=1)
        self._writer = None

    def on_train_begin(self, logs=None):
        if not masked_layers(self.model):
            raise ValueError(
                "`model` must be wrapped by `keras_bimp.wrap`, or hold "
                f"`Masked` layers. Received: model={self.model!r}"
            )
        try:
            import tensorboard  # noqa: F401 TensorFlow asks for it, but later.
            import tensorflow as tf
        except ImportError as error:
            raise ValueError(
                "`PruningSummaries` needs TensorFlow, which writes the files "
                "on every backend, and TensorBoard. Install them: "
                "pip install tensorflow tensorboard"
            ) from error
        self._scalar = tf.summary.scalar
        self._writer = tf.summary.create_file_writer(
            os.path.join(self.log_dir, "pruning")
        )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.update_freq:
            return
        kernels = [
            kernel
            for masked in masked_layers(self.model)
            for kernel in masked.kernels
        ]
        effective = EffectiveKernels(self.model)
        with self._writer.as_default():
            for path, kernel in zip(
                unique_paths(kernels), kernels, strict=True
            ):
                zeros = kernel.size - effective.nonzero(kernel.variable)
                self._scalar(
                    f"sparsity/{path}", zeros / kernel.size, step=epoch
                )

    def on_train_end(self, logs=None):
        self._writer.close()
