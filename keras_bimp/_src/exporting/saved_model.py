"""SavedModels in the layout that TensorFlow Serving expects."""

import contextlib
import functools
import pathlib

import keras
from keras import tree

from keras_bimp._src.exporting import sparse_kernels
from keras_bimp._src.exporting.folding import folded
from keras_bimp._src.exporting.inputs import input_names
from keras_bimp._src.exporting.options import Options
from keras_bimp._src.foreign_errors import told
from keras_bimp._src.keras_internals.layers import layers_in
from keras_bimp._src.keras_internals.saving import get_input_signature
from keras_bimp._src.name_lists import listed


def write(model: keras.Model, path: pathlib.Path, options: Options) -> None:
    """Writes a SavedModel, on the TensorFlow backend.

    Args:
        model: A plain model.
        path: The folder.
        options: Its `signatures`, `labels`, `top_k` and `warmup`.
    """
    # `signatures` may call the model in other ways, such as in training mode.
    within = contextlib.nullcontext({}) if options.signatures else folded(model)
    with within as merged:
        if not options.sparse_kernels:
            _write(model, path, options)
            return
        kernels = sparse_kernels.candidates(model, merged)
        if options.sparse_kernels == "auto":
            chosen = sparse_kernels.choose_by_time(
                model,
                kernels,
                options.examples,
                options.batch_sizes,
                options.tell,
            )
        else:
            chosen = sparse_kernels.choose_all(kernels)
        options.tell("writing it")
        those = sparse_kernels.sparse_ones(kernels, chosen)
        with sparse_kernels.sparse(model, those):
            _write(model, path, options)
        sparse_kernels.write(path, chosen)


def _write(model, path, options):
    # Not `model.export`: it tracks the model too and writes every weight
    # twice (keras-team/keras#23553).
    archive = keras.export.ExportArchive()
    for layer in layers_in(model):
        if isinstance(layer, WITH_TABLES):
            archive.track(layer.lookup_table)
    signature = get_input_signature(model)
    serve = _add_serve(archive, model, signature)
    if options.labels is not None:
        classify = _classifier(model, options.labels, options.top_k)
        archive.add_endpoint("classify", classify, signature)
    others = {}
    for name, function in (options.signatures or {}).items():
        others[name] = archive.add_endpoint(name, function, signature)
    if options.sparse_kernels:
        sparse_kernels.check_not_compiled(others)
    archive.write_out(path, verbose=False)
    if options.warmup is not None:
        names = _names(serve, input_names(model))
        signatures = ["serving_default"]
        if options.labels is not None:
            signatures.append("classify")
        _write_warmup(path, options.warmup, names, signatures)


def traced(model: keras.Model, signature: list):
    """Returns the inference of a model as a `tf.function`.

    Args:
        model: A plain model.
        signature: Its inputs, as `tf.TensorSpec`s or `keras.InputSpec`s.
    """
    return _add_serve(keras.export.ExportArchive(), model, signature)


def check_traceable(model: keras.Model, error: Exception) -> None:
    """Raises ValueError if an export failed because tracing fails."""
    signature = get_input_signature(model)
    try:
        traced(model, signature).get_concrete_function()
    except Exception as refused:
        sizes = [tuple(spec.shape[1:]) for spec in tree.flatten(signature)]
        remedy = ""
        if any(None in size for size in sizes):
            remedy = (
                f"with inputs of shapes {listed(map(str, sizes))}. Build it "
                "for a fixed size, and copy the weights: "
                "`other.set_weights(model.get_weights())`. This is a model "
            )
        raise ValueError(
            "`model` must be traceable by TensorFlow. Received: a model "
            f"{remedy}that TensorFlow rejects: {told(refused)}"
        ) from error


def _add_serve(archive, model, signature):
    compute = functools.partial(model.__call__, training=False)
    return archive.add_endpoint("serve", compute, signature)


def _classifier(model, labels, top_k):
    import tensorflow as tf

    labels = tf.constant(list(labels))

    def classify(*args):
        scores, classes = tf.math.top_k(model(*args, training=False), top_k)
        return {"classes": tf.gather(labels, classes), "scores": scores}

    return classify


def _names(function, names):
    """Returns the names of a function's inputs in its signature."""
    import tensorflow as tf

    concrete = function.get_concrete_function()
    found = tf.nest.flatten(concrete.structured_input_signature)
    return [spec.name or name for spec, name in zip(found, names, strict=True)]


def _write_warmup(path, arrays, names, signatures):
    """Writes the requests that TensorFlow Serving warms up with.

    Each signature has one request with all examples and one with the first.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    folder = path / "assets.extra"
    folder.mkdir(exist_ok=True)
    file = folder / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature in signatures:
            for examples in (slice(None), slice(1)):
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = "default"
                request.model_spec.signature_name = signature
                for name, array in zip(names, arrays, strict=True):
                    request.inputs[name].CopyFrom(
                        tf.make_tensor_proto(array[examples])
                    )
                writer.write(log.SerializeToString())


# Layers that use TensorFlow lookup tables.
WITH_TABLES = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
)


def remedy_of_tables(model: keras.Model) -> str:
    """Returns a remedy if layers use lookup tables, else an empty string."""
    tables = [
        f"'{layer.name}'"
        for layer in layers_in(model)
        if isinstance(layer, WITH_TABLES)
    ]
    if not tables:
        return ""
    return (
        f"with {listed(tables)}, which uses a TensorFlow lookup table. Look up "
        "before the exported model, and export a model that starts after that "
        "layer"
    )
