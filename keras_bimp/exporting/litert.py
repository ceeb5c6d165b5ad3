"""LiteRT, formerly TensorFlow Lite."""

import pathlib
import re

import keras

from keras_bimp.exporting.inputs import input_names
from keras_bimp.exporting.options import Options


def write(model: keras.Model, path: pathlib.Path, options: Options) -> None:
    """Writes a `.tflite` file, on the TensorFlow backend.

    Only with operations of LiteRT itself: no others run everywhere.

    Args:
        model: A plain model.
        path: The file.
        options: Its `quantize`, `calibration` and `sparse_tensors`.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    operations, optimizations, more = tf.lite.OpsSet.TFLITE_BUILTINS, [], {}
    if options.quantize:
        operations = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        optimizations.append(tf.lite.Optimize.DEFAULT)
        more["representative_dataset"] = lambda: _examples(model, options)
    if options.sparse_tensors:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if optimizations:
        more["optimizations"] = optimizations
    try:
        model.export(
            path,
            format="litert",
            verbose=False,
            target_spec={"supported_ops": [operations]},
            **more,
        )
    except ConverterError as error:
        missing = re.search(r"ops?: (.*)", str(error))
        reason = missing[0] if missing else str(error).splitlines()[0]
        raise ValueError(
            "`model` must be made of operations that LiteRT has. "
            f"Received: a model of which its converter says: {reason}"
        ) from error


def _examples(model, options):
    """One example at a time, as the converter asks for them."""
    names = input_names(model)
    for i in range(len(options.calibration[0])):
        one = [array[i : i + 1] for array in options.calibration]
        # By name where there are several: their order may be another.
        yield one if len(one) == 1 else dict(zip(names, one, strict=True))
