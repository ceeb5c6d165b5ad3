"""LiteRT, formerly TensorFlow Lite."""

import pathlib
import re

import keras
from keras import tree

from keras_bimp._src.exporting import saved_model
from keras_bimp._src.exporting.inputs import input_names
from keras_bimp._src.exporting.litert_upsampling import resizing_calls
from keras_bimp._src.exporting.options import Options
from keras_bimp._src.exporting.remedies import remedy_of_quantized
from keras_bimp._src.foreign_errors import told
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.saving import get_input_signature
from keras_bimp._src.name_lists import listed
from keras_bimp._src.replaced_calls import replaced


def write(model: keras.Model, path: pathlib.Path, options: Options) -> None:
    """Writes a `.tflite` file, on the TensorFlow backend.

    It has only built-in LiteRT operations, since others do not run everywhere.

    Args:
        model: A plain model.
        path: The file.
        options: Its `quantize`, `calibration` and `sparse_tensors`.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    optimizations, more = [], {}
    if options.quantize:
        # 8 bits, unless `supported_types` says otherwise.
        optimizations.append(tf.lite.Optimize.DEFAULT)
    if options.quantize == "int8":
        target["supported_ops"] = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        more["representative_dataset"] = lambda: _examples(model, options)
    if options.quantize == "float16":
        target["supported_types"] = [tf.float16]
    if options.sparse_tensors:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if optimizations:
        more["optimizations"] = optimizations
    try:
        with replaced(resizing_calls(model)):
            model.export(
                path,
                format="litert",
                verbose=False,
                target_spec=target,
                **more,
            )
    except ConverterError as error:
        raise ValueError(
            "`model` must consist of operations that LiteRT has. "
            f"Received: {_reason(str(error), model)}"
            f"{remedy_of_quantized(model, 'litert')}"
        ) from error


def _reason(text, model):
    """Extracts the converter's reason from its long message."""
    loops = [
        f"'{layer.name}'"
        for layer in layers_in(model)
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]
    if loops and "TensorList" in text:
        return (
            f"a model with {listed(loops)}, which loops over the time steps. "
            "LiteRT cannot do that for batches of any size. Build "
            "the model with `unroll=True` there and inputs of a fixed length, "
            "and copy the weights: "
            "`other.set_weights(model.get_weights())`. Or use format='onnx' "
            "or 'openvino'"
        )
    known = "a model that its converter rejects: "
    lacking = re.search(r"(?m)^(?:TF Select|Flex|Custom) ops: (.*)$", text)
    if lacking and (tables := saved_model.remedy_of_tables(model)):
        return f"a model {tables}. LiteRT has no {lacking[1].strip()}"
    if lacking:
        found = f"a model with {lacking[1].strip()}, which LiteRT lacks"
        return f"{found}{_remedy_of_open_sizes(model)}"
    refused = re.findall(r"'tfl?\.(\w+)' op ([^\n']*)", text)
    if refused:
        said = dict.fromkeys(f"{op} {why.strip()}" for op, why in refused)
        return known + told("; ".join(said))
    return known + told(text)


def _remedy_of_open_sizes(model):
    """Advises fixed sizes, which let the converter compute masks and such."""
    signature = get_input_signature(model)
    if all(None not in spec.shape[1:] for spec in tree.flatten(signature)):
        return ""
    if isinstance(signature, list | tuple) and len(signature) == 1:
        (signature,) = signature
    return (
        ". It may need fewer with inputs of fixed sizes: export, for example, "
        f"`x = {_inputs_of_fixed_size(signature)}; keras.Model(x, model(x))`"
    )


def _inputs_of_fixed_size(signature):
    """Returns the code of inputs for a structure of specs."""
    if isinstance(signature, dict):
        items = signature.items()
        made = [f"{k!r}: {_inputs_of_fixed_size(x)}" for k, x in items]
        return f"{{{', '.join(made)}}}"
    if isinstance(signature, list | tuple):
        return f"[{', '.join(map(_inputs_of_fixed_size, signature))}]"
    shape = tuple(128 if n is None else n for n in signature.shape[1:])
    name = f", name={signature.name!r}" if signature.name else ""
    return f"keras.Input({shape}, dtype={signature.dtype!r}{name})"


def _examples(model, options):
    """Yields one example at a time, as the converter expects them."""
    names = input_names(model)
    for i in range(len(options.calibration[0])):
        one = [array[i : i + 1] for array in options.calibration]
        # By name if there are several, since their order may differ.
        yield one if len(one) == 1 else dict(zip(names, one, strict=True))
