"""Export to deployment formats."""

import functools
import pathlib
import warnings
from collections.abc import Callable
from collections.abc import Sequence

import keras

from keras_bimp._src.checks import check_choice
from keras_bimp._src.checks import check_positive
from keras_bimp._src.exporting import sparse_kernels as sparse
from keras_bimp._src.exporting.argument_checks import check_goes_with
from keras_bimp._src.exporting.argument_checks import check_name
from keras_bimp._src.exporting.argument_checks import checked_labels
from keras_bimp._src.exporting.argument_checks import checked_signatures
from keras_bimp._src.exporting.atomic_files import check_writable
from keras_bimp._src.exporting.atomic_files import written_aside
from keras_bimp._src.exporting.exported_path import Exported
from keras_bimp._src.exporting.formats import FORMATS
from keras_bimp._src.exporting.formats import check_packages
from keras_bimp._src.exporting.formats import is_installed
from keras_bimp._src.exporting.formats import write
from keras_bimp._src.exporting.inputs import as_inputs
from keras_bimp._src.exporting.inputs import has_fixed_batch
from keras_bimp._src.exporting.inputs import input_names
from keras_bimp._src.exporting.inputs import of_several_kinds
from keras_bimp._src.exporting.inputs import outputs_of
from keras_bimp._src.exporting.inputs import tried_inputs
from keras_bimp._src.exporting.litert_kernels import kernels_of
from keras_bimp._src.exporting.litert_on_arm import check_sparse_on_arm
from keras_bimp._src.exporting.model_checks import check_arguments
from keras_bimp._src.exporting.model_checks import check_input_names
from keras_bimp._src.exporting.model_checks import check_model
from keras_bimp._src.exporting.model_checks import check_sparsity_reached
from keras_bimp._src.exporting.model_checks import check_types
from keras_bimp._src.exporting.model_checks import checked_quantize
from keras_bimp._src.exporting.model_checks import checked_sparse_kernels
from keras_bimp._src.exporting.model_checks import remedy_of_types
from keras_bimp._src.exporting.options import Options
from keras_bimp._src.exporting.quantized import check_can_be_verified
from keras_bimp._src.exporting.quantized import check_not_quantized
from keras_bimp._src.exporting.quantized import verify_packed
from keras_bimp._src.exporting.remedies import modes_of
from keras_bimp._src.exporting.remedies import remedy_of_quantized
from keras_bimp._src.exporting.remedies import remedy_of_steps
from keras_bimp._src.exporting.verifying import default_tolerance
from keras_bimp._src.exporting.verifying import verify as _verify
from keras_bimp._src.progress_display import waiting

# The number of examples to compare outputs on.
_EXAMPLES = 16


def export(
    model: keras.Model,
    filepath: str | pathlib.Path,
    format: str = "tf_saved_model",
    signatures: dict[str, Callable] | None = None,
    labels: Sequence[str] | None = None,
    warmup_data=None,
    *,
    example_data=None,
    top_k: int = 5,
    quantize: str | None = None,
    calibration_data=None,
    sparse_tensors: bool = False,
    sparse_kernels: bool | str = False,
    batch_sizes: Sequence[int] = (1, 32),
    check_sparsity: bool = True,
    verify: bool = True,
    tolerance: float | None = None,
    verbose: int = 1,
) -> Exported:
    """Exports a pruned model for deployment, one format per call.

    The result does not need keras_bimp and, except for `"packed"`, does not
    need Keras. On every backend it consists of plain TensorFlow operations,
    takes batches of any size, and stores each weight once. It is written next
    to `filepath`, run with its own runtime in a fresh process, compared with
    `model`, and only then renamed, so a process that watches the folder never
    sees a partial result. `model` is not changed.

    In a SavedModel, batch normalization is folded into the kernel and bias of
    the convolution or dense layer before it, if that layer has no activation
    and its output is used nowhere else. Zeros stay zeros. This is done for
    Functional and Sequential models in float32 without `signatures`, which
    may call `model` in training mode. The converters to other formats fold
    most layers themselves.

    Args:
        model: A plain Keras model, as returned by `strip`.
        filepath: Where to write. For a SavedModel, the version folder that
            TensorFlow Serving looks for; its last part is an integer, as in
            `"saved_model/1"`. For other formats, a file with the suffix of
            the format.
        format: `"tf_saved_model"`; `"litert"`, a `.tflite` file; `"onnx"`, an
            `.onnx` file; `"openvino"`, an `.xml` file and a `.bin` file next
            to it; `"packed"`, the smallest, a `.packed` file that
            `exporting.load_packed` turns back into the model.
        signatures: Additional signatures of a SavedModel: name -> callable
            that takes the inputs of the model, uses Keras or TensorFlow
            operations, and returns a tensor or a dict of tensors. TensorFlow
            backend only.
        labels: The names of the classes, one per output of the model. Adds a
            signature `classify` to a SavedModel, which returns the `classes`
            and `scores` of the best `top_k`. Scores are the model's outputs.
        warmup_data: Examples as `predict` takes them. Adds warm-up requests
            for TensorFlow Serving to a SavedModel: one with all examples, one
            with the first.
        example_data: Examples as `predict` takes them, to compare the
            outputs of `model` and of the exported model, in any format.
            Defaults to `warmup_data` or `calibration_data`. Without these,
            examples are generated: random floats, and integers and strings
            that the model's layers can look up. Pass `example_data` if the
            model does not run on generated examples, for example because it
            takes only one length that its input shape does not specify.
        top_k: Integer >= 1, how many classes `classify` returns.
        quantize: `None`, `"int8"`, `"int8_weights"` or `"float16"`. With
            `"int8"`, LiteRT computes in 8-bit integers; the types of inputs
            and outputs do not change. `"int8_weights"` stores 8-bit weights
            and quantizes activations at run time. `"float16"` stores 16-bit
            weights, and computes in 32 bits where the processor has no 16-bit
            arithmetic. A packed file takes `"int8_weights"` only: kernels and
            tables are rounded to 8 bits, vectors to 11 significant bits, and
            the loaded model has them in 32 bits. Zeros stay zeros.
        calibration_data: Examples as `predict` takes them, a hundred or more,
            from which the range of each activation is found. For
            `quantize="int8"`.
        sparse_tensors: Whether LiteRT omits zeros from the file, which helps
            if the file is not compressed. A dense layer that was pruned with
            `granularity="1x4"` also becomes faster, because LiteRT has a
            sparse kernel for it. LiteRT unpacks other kernels when it loads
            them (DENSIFY). A table, read from the file, shows which. With
            `quantize` this is refused unless LiteRT loads the file by default.
        sparse_kernels: Whether a SavedModel uses sparse matrix products for
            kernels that are mostly zeros. Stock TensorFlow has them on CPUs:
            from about 95% sparsity they are faster, and the kernels take a
            tenth of the space. `"auto"` measures, and uses a sparse product
            only where it is faster at all `batch_sizes`. `True` uses it for
            every kernel that is at least half zeros. The choice for each
            kernel is printed, returned in `sparse_kernels`, and shown in the
            report. `False`, the default, measures nothing, so that the result
            does not depend on the machine. XLA has no sparse product: a
            signature with `jit_compile=True` is refused, and a model served
            with XLA needs `False`. Sparse kernels have no gradients.
        batch_sizes: Integers >= 1, the batch sizes that `"auto"` measures.
        check_sparsity: Whether to refuse a model whose training did not reach
            its target sparsity, or that has lost zeros since.
        verify: Whether to run the exported model in a fresh process. Must be
            True for LiteRT, ONNX and OpenVINO if Keras has quantized `model`,
            because the converters get some of these models wrong.
        tolerance: Float > 0, the largest allowed difference of outputs,
            relative to the largest output. Defaults to 1e-5; to 0.01 with
            types of fewer than 32 bits or on a GPU, to 0.05 in bfloat16, and
            to 0.1 with 8 bits. For a model that Keras has quantized, to 0.01,
            and to 1e-5 if it is packed.
        verbose: Whether to show progress if the export takes longer than two
            seconds. 0 shows nothing.

    Returns:
        The path that was written, a `pathlib.Path`. Its attribute `difference`
        is the difference of outputs that `verify` found. With
        `sparse_kernels` or `sparse_tensors`, its attribute `sparse_kernels`
        has the choice for each kernel; `str()` of it is a table.

    Raises:
        ValueError: If the model is wrapped, not built, or incomplete, a weight
            is not finite, or its training failed; if `filepath` exists, cannot
            be written, or has the wrong suffix; if an argument does not apply
            to the format; if the model cannot be converted to it. A model in
            bfloat16 cannot be converted to LiteRT, ONNX or OpenVINO, and one
            in float16 or float64 cannot be converted to LiteRT.
        ImportError: If a package that writes the format is missing.
        OSError: If writing fails, for example on a full disk.
        RuntimeError: If the outputs of the exported model differ from those
            of `model`.

    Example:

    ```python
    pruned = keras_bimp.strip(model)
    keras_bimp.export(pruned, "saved_model/1", labels=list("0123456789"))
    keras_bimp.export(
        pruned,
        "model.tflite",
        format="litert",
        quantize="int8",
        calibration_data=x,
    )
    keras_bimp.export(pruned, "faster/1", sparse_kernels="auto")
    ```

    Reference:

    - [TensorFlow Serving, SavedModel warmup](
      https://www.tensorflow.org/tfx/serving/saved_model_warmup)
    """
    check_choice("format", format, FORMATS)
    check_goes_with(
        format,
        signatures=signatures,
        labels=labels,
        warmup_data=warmup_data,
        quantize=quantize,
        calibration_data=calibration_data,
        sparse_tensors=sparse_tensors or None,
        sparse_kernels=sparse_kernels or None,
    )
    check_model(model)
    check_types(model, format, FORMATS[format].lacks)
    check_can_be_verified(model, format, verify)
    if quantize is not None:
        check_not_quantized(model, quantize)
    filepath = pathlib.Path(filepath)
    check_name(format, filepath)
    check_writable(filepath)
    if format == "openvino":
        check_writable(filepath.with_suffix(".bin"))
    if format != "packed":
        check_arguments(model)
    if format not in ("onnx", "packed"):
        check_input_names(model, format)
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    batch_sizes = checked_sparse_kernels(sparse_kernels, batch_sizes)
    if sparse_kernels is True:
        sparse.check_types(model)
    warmup = _inputs("warmup_data", warmup_data, model)
    quantize = checked_quantize(quantize, calibration_data, format)
    refuse = ""
    if quantize and sparse_tensors:
        refuse = (
            f"`sparse_tensors` must be False with quantize={quantize!r}, "
            "because LiteRT does not load such a file by default. "
            f"Received: sparse_tensors={sparse_tensors!r}"
        )
        if not verify or not is_installed(FORMATS[format].runtime):
            raise ValueError(refuse)
    calibration = _inputs("calibration_data", calibration_data, model)
    examples = _inputs("example_data", example_data, model)
    examples = examples or warmup or calibration
    run = functools.cache(functools.partial(_run, model, examples))
    check_packages(format, warmup=warmup_data is not None)
    if check_sparsity:
        check_sparsity_reached(model)
    signatures = checked_signatures(signatures)
    labels, top_k = checked_labels(labels, top_k, run)
    shown = waiting(f"Exporting '{filepath.name}'", verbose)
    with shown as tell, written_aside(filepath) as path:
        tell("writing it")
        options = Options(
            signatures,
            labels,
            top_k,
            warmup,
            quantize,
            calibration,
            bool(sparse_tensors),
            sparse_kernels,
            batch_sizes,
            run()[0] if sparse_kernels == "auto" else None,
            tell,
        )
        write(model, format, path, options)
        kernels = None
        if sparse_kernels:
            kernels = sparse.read(path)
        elif sparse_tensors:
            check_sparse_on_arm(path)
            kernels = kernels_of(path)
        difference = None
        if verify and FORMATS[format].runtime is not None:
            tell("running it in its own runtime")
            inputs, expected = run()
            if not examples:
                _warn_of_zeros(filepath, inputs)
            if tolerance is None:
                tolerance = default_tolerance(model, format, quantize)
            difference = _verify(
                format,
                path,
                inputs,
                input_names(model),
                expected,
                tolerance,
                remedy_of_types(model)
                + remedy_of_quantized(model, format)
                + remedy_of_steps(model),
                refuse,
            )
        elif verify and format == "packed" and (quantize or modes_of(model)):
            tell("loading it again")
            inputs, expected = run()
            if tolerance is None:
                tolerance = default_tolerance(model, format, quantize)
            difference = verify_packed(model, path, inputs, expected, tolerance)
    exported = Exported(filepath)
    exported.difference = difference
    if kernels is not None:
        exported.sparse_kernels = kernels
        if sparse_kernels:
            sparse.remember(model, kernels)
        if verbose:
            print(kernels, flush=True)
    return exported


def _warn_of_zeros(filepath, inputs):
    if any(x.dtype.kind in "iub" and x.size and not x.any() for x in inputs):
        warnings.warn(
            f"'{filepath.name}' is verified on zeros only, because `model` "
            "runs on no other generated examples: pass `example_data`.",
            stacklevel=3,
        )


def _run(model, examples):
    """Returns a few examples, and the model's outputs for them."""
    inputs = None
    if examples is not None:
        # Swapped axes are only noticed if their sizes differ.
        lengths = {length for array in examples for length in array.shape[1:]}
        most = min(_EXAMPLES, len(examples[0]))
        counts = (n for n in range(most, 0, -1) if n not in lengths)
        count = next(counts, most)
        inputs = [array[:count] for array in examples]
    if modes_of(model) and not has_fixed_batch(model):
        inputs = of_several_kinds(model, inputs)
    if inputs is None:
        return tried_inputs(model)
    return inputs, outputs_of(model, inputs)


def _inputs(name, data, model):
    return None if data is None else as_inputs(name, data, model)
