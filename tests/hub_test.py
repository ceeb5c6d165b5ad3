"""Masked KerasHub tasks fit, preprocess and generate as before."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from from_examples import STUDY
from from_examples import importable
from keras import tree

import keras_bimp
from keras_bimp._src.backends import as_array
from keras_bimp._src.masking import MaskedModel

pytestmark = [
    pytest.mark.slow,
    # From KerasHub: a shuffled dataset, and unused masks.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed"),
    pytest.mark.filterwarnings(
        "ignore:Layer .*was passed an input with a mask"
    ),
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
    pytest.mark.filterwarnings("ignore:.*numpy-like:DeprecationWarning"),
]
LENGTH = 16  # Of the sequences.


@pytest.fixture
def network(request):
    with importable(STUDY):
        from foreign import hub

        network = hub.NETWORKS[request.param]()
        network.compile()
        yield network


def named(*names):
    return pytest.mark.parametrize("network", names, indirect=True)


def predicted(model, network):
    outputs = model.predict(network.x, batch_size=8, verbose=0)
    return [np.asarray(y) for y in tree.flatten(outputs)]


def fit(model, network, epochs=2, **kwargs):
    return model.fit(
        network.x, network.y, batch_size=4, epochs=epochs, verbose=0, **kwargs
    )


def pruning():
    return keras_bimp.callbacks(
        0.5, dense_epochs=1, steps_per_epoch=2, verbose=0
    )


def prompt(words=4):
    """Returns two prompts of some words, padded for the rest."""
    rng = np.random.default_rng(3)
    ids = rng.integers(1, 60, (2, LENGTH)).astype("int32")
    mask = np.arange(LENGTH)[None] < np.array([[words]] * 2)
    return {"token_ids": np.where(mask, ids, 0), "padding_mask": mask}


def said(model, prompt):
    """Decodes greedily, with one call of the whole model per word."""
    ids = np.array(prompt["token_ids"])
    begin = int(prompt["padding_mask"][0].sum())
    for i in range(begin, LENGTH):
        given = {
            "token_ids": ids,
            "padding_mask": np.tile(np.arange(LENGTH) < i, (2, 1)),
        }
        logits = keras.ops.convert_to_numpy(model(given, training=False))
        ids[:, i] = logits[:, i - 1].argmax(-1)
    return ids


@named(
    "BertTextClassifier",
    "GPT2CausalLM",
    "GemmaCausalLM",
    "BartSeq2SeqLM",
    "ViTImageClassifier",
    "SegFormerImageSegmenter",
    "DeepLabV3ImageSegmenter",
    "RetinaNetObjectDetector",
)
def test_a_task_is_pruned_and_given_back(network):
    task = network.model
    before = predicted(task, network)
    wrapped = keras_bimp.wrap(task)
    assert isinstance(wrapped, MaskedModel)
    assert isinstance(wrapped, type(task))
    for y, other in zip(before, predicted(wrapped, network), strict=True):
        np.testing.assert_array_equal(other, y)
    fit(wrapped, network, callbacks=pruning())
    kernels = [kernel.variable for kernel in wrapped.wrapper.kernels]
    total = sum(np.prod(kernel.shape) for kernel in kernels)
    trained = predicted(wrapped, network)
    assert keras_bimp.strip(wrapped) is task
    zeros = sum(int((as_array(kernel) == 0).sum()) for kernel in kernels)
    assert zeros == round(0.5 * total)
    for y, other in zip(trained, predicted(task, network), strict=True):
        np.testing.assert_array_equal(other, y)


@pytest.mark.every_backend
@named("BertTextClassifier")
def test_strings_are_preprocessed(network):
    wrapped = keras_bimp.wrap(network.model)
    fit(wrapped, network, callbacks=pruning())
    given = network.model.preprocessor(tf.constant(network.x))
    expected = predicted(wrapped, network)
    wrapped.preprocessor = None
    assert network.model.preprocessor is None
    network.x = {name: np.asarray(array) for name, array in given.items()}
    np.testing.assert_allclose(predicted(wrapped, network), expected, rtol=1e-5)


@pytest.mark.every_backend
@named("GPT2CausalLM")
def test_it_generates_with_masks(network):
    wrapped = keras_bimp.wrap(network.model)
    wrapped.compile(sampler="greedy")
    keras_bimp.prune(wrapped, 0.8)
    expected = said(wrapped, prompt())
    first = wrapped.generate(prompt(), stop_token_ids=None)
    np.testing.assert_array_equal(first["token_ids"], expected)
    compiled = wrapped.generate_function
    keras_bimp.prune(wrapped, 0.95)
    second = wrapped.generate(prompt(), stop_token_ids=None)
    np.testing.assert_array_equal(second["token_ids"], said(wrapped, prompt()))
    assert wrapped.generate_function is compiled
    task = keras_bimp.strip(wrapped)
    assert type(task.sampler) is type(wrapped.sampler)
    third = task.generate(prompt(), stop_token_ids=None)
    np.testing.assert_array_equal(third["token_ids"], second["token_ids"])


@keras.saving.register_keras_serializable(package="keras_bimp_tests")
class Backwards(keras_bimp.masking.Rule):
    """Computes with negated kernels, unlike the stored ones."""

    def effective_kernel(self, kernel, mask):
        return -kernel

    def final_kernel(self, kernel, mask):
        return -kernel


@pytest.mark.every_backend
@named("GPT2CausalLM")
def test_it_generates_with_what_the_rule_makes_of_kernels(network):
    plain = said(network.model, prompt())
    wrapped = keras_bimp.wrap(network.model, rule=Backwards())
    wrapped.compile(sampler="greedy")
    expected = said(wrapped, prompt())
    assert (expected != plain).any()
    found = wrapped.generate(prompt(), stop_token_ids=None)
    np.testing.assert_array_equal(found["token_ids"], expected)


@pytest.mark.every_backend
@named("GPT2CausalLM")
def test_a_saved_task_trains_and_generates(network, tmp_path):
    wrapped = keras_bimp.wrap(network.model)
    wrapped.compile("adam", sampler="greedy")
    fit(wrapped, network, callbacks=pruning())
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    for y, other in zip(
        predicted(wrapped, network), predicted(loaded, network), strict=True
    ):
        np.testing.assert_array_equal(other, y)
    assert type(loaded.sampler) is type(wrapped.sampler)
    assert int(loaded.optimizer.iterations.value) == 4
    np.testing.assert_array_equal(
        loaded.generate(prompt(), stop_token_ids=None)["token_ids"],
        said(loaded, prompt()),
    )
    fit(loaded, network)
    assert keras_bimp.sparsity(loaded).prunable == 0.5


@named("ViTImageClassifier")
def test_a_preset_is_refused_where_there_are_masks(network, tmp_path):
    wrapped = keras_bimp.wrap(network.model)
    with pytest.raises(ValueError, match="Strip it first"):
        wrapped.save_to_preset(str(tmp_path / "preset"))


@named("GPT2CausalLM")
def test_lora_is_refused(network):
    network.model.backbone.enable_lora(2)
    with pytest.raises(ValueError, match="prune before `enable_lora`"):
        keras_bimp.wrap(network.model)


@named("BertTextClassifier")
def test_a_refusal_names_ways_that_work(network):
    task = network.model
    with pytest.raises(ValueError, match=r"keras_bimp\.wrap\(model\)") as error:
        keras_bimp.prune(task, 0.5)
    assert "Masked" not in str(error.value)  # No task accepts such a backbone.

    class Own(type(task)):
        def train_step(self, data):
            return super().train_step(data)

    own = Own(task.backbone, 3, preprocessor=None)
    way = r"keras_bimp\.wrap\(keras\.Model\(model\.inputs"
    with pytest.raises(ValueError, match=way) as error:
        keras_bimp.wrap(own)
    assert "Masked(" not in str(error.value)
    model = keras_bimp.wrap(keras.Model(own.inputs, own.outputs))
    keras_bimp.prune(model, 0.5, optimizer=[])
    keras_bimp.strip(model)
    assert keras_bimp.sparsity(own).prunable == pytest.approx(0.5)


@named("ResNetImageClassifier", "DeepLabV3ImageSegmenter")
def test_channels_of_a_task_go(network):
    task = network.model
    wrapped = keras_bimp.wrap(task)
    # DeepLabV3's pyramid is not followed: its channels stay.
    keras_bimp.prune(wrapped, 0.5, granularity="unit")
    small = keras_bimp.shrink(keras_bimp.strip(wrapped), align=1)
    assert small.count_params() < 0.8 * task.count_params()
    x = network.x
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(small(x)),
        keras.ops.convert_to_numpy(task(x)),
        rtol=1e-4,
        atol=1e-5,
    )
