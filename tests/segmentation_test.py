"""Segmentation: data, loss and score, networks, and the example."""

import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
from from_examples import EXAMPLES
from from_examples import importable
from helpers import lines_with
from keras import ops

import keras_bimp
from keras_bimp._src.masking import find_prunable

pytestmark = pytest.mark.slow

VOID = 255

# Its MeanIoU requests an int64 from JAX, and gets an int32.
OF_KERAS_ON_JAX = pytest.mark.filterwarnings(
    "ignore:Explicitly requested dtype int64:UserWarning"
)


@pytest.fixture(scope="module")
def study():
    with importable(EXAMPLES):
        import study.data.segmentation
        import study.networks

        yield study


# Loss and measure.


def scored(classes=3, count=5, size=(6, 7)):
    """Generates random logits and labels, some of them void."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((count, *size, classes)).astype("float32")
    labels = rng.integers(0, classes, (count, *size)).astype("uint8")
    labels[rng.random(labels.shape) < 0.3] = VOID
    return logits, labels


@pytest.mark.every_backend
def test_loss_is_the_mean_over_the_pixels_that_are_not_void(study):
    loss = study.data.segmentation.loss()
    logits, labels = scored()
    there = labels != VOID
    exponents = np.exp(logits)
    chances = exponents / exponents.sum(-1, keepdims=True)
    expected = -np.log(
        np.take_along_axis(chances[there], labels[there][:, None], -1)
    ).mean()
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-5)
    logits[~there] += 100 * np.eye(3)[0]  # Void pixels are ignored.
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(np.full_like(labels, VOID), logits)) == 0


def mean_iou_by_hand(logits, labels):
    """Computes the mIoU in percent from the confusion matrix."""
    classes = logits.shape[-1]
    matrix = np.zeros((classes, classes))
    for label, found in zip(
        labels.ravel(), logits.argmax(-1).ravel(), strict=True
    ):
        if label != VOID:
            matrix[label, found] += 1
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    present = union > 0
    return 100 * (np.diag(matrix)[present] / union[present]).mean()


class Bias(keras.layers.Layer):
    """A layer whose weights are the logits of all images."""

    def build(self, shape):
        self.bias = self.add_weight(
            shape=shape[1:], initializer="zeros", name="bias"
        )

    def call(self, x):
        return x + self.bias


@OF_KERAS_ON_JAX
@pytest.mark.every_backend
@pytest.mark.parametrize("absent", [None, 2])
def test_score_is_the_mean_iou_of_the_whole_data_set(study, absent):
    import tensorflow as tf

    segmentation = study.data.segmentation
    logits, labels = scored()
    if absent is not None:  # Neither in the labels nor in the predictions.
        logits[..., absent] = -100
        labels[labels == absent] = VOID
    model = keras.Sequential([keras.Input(logits.shape[1:]), Bias()])
    model.compile("sgd", segmentation.loss(), metrics=segmentation.metrics(3))
    batches = tf.data.Dataset.from_tensor_slices((logits, labels)).batch(2)
    expected = mean_iou_by_hand(logits, labels)
    score = segmentation.mean_iou(model, batches)
    assert score == pytest.approx(expected, abs=1e-3)
    # Not the mean over batches, and void is not a class.
    assert score != pytest.approx(
        np.mean([mean_iou_by_hand(*b) for b in batches.as_numpy_iterator()]),
        abs=0.1,
    )


@OF_KERAS_ON_JAX
@pytest.mark.every_backend
def test_void_pixels_get_no_gradient(study):
    logits, labels = scored()
    labels[:, 0] = VOID
    model = keras.Sequential([keras.Input(logits.shape[1:]), Bias()])
    model.compile(
        keras.optimizers.SGD(1.0),
        study.data.segmentation.loss(),
        metrics=study.data.segmentation.metrics(3),
    )
    before = np.array(ops.convert_to_numpy(model.weights[0]))
    history = model.fit(logits, labels, batch_size=5, verbose=0).history
    moved = np.array(ops.convert_to_numpy(model.weights[0])) != before
    assert not moved[0].any()
    assert moved[1:].all()
    assert 100 * history["mean_iou"][0] == pytest.approx(
        mean_iou_by_hand(logits + before, labels), abs=1e-3
    )


# Data.


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """Writes small splits in CamVid's format: a label is the red level."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def examples(count):
        labels = rng.integers(0, 12, (count, 12, 16, 1), dtype="uint8")
        labels = labels.repeat(10, 1).repeat(10, 2)
        images = np.concatenate([labels, 0 * labels, 0 * labels], axis=-1)
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": images,
                "segmentation_mask": labels,
                "file_name": [f"{i}.png" for i in range(count)],
            }
        )

    tfds.dataset_builders.store_as_tfds_dataset(
        name="camvid",
        version="1.0.0",
        data_dir=folder,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(120, 160, 3)),
                "segmentation_mask": tfds.features.Image(shape=(120, 160, 1)),
                "file_name": tfds.features.Text(),
            }
        ),
        split_datasets={
            "train": examples(7),
            "validation": examples(3),
            "test": examples(5),
        },
    )
    return folder


def arrays(dataset):
    """Returns all images and labels of batches, in one array each."""
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def reds(study, images):
    segmentation = study.data.segmentation
    return images[..., 0] * segmentation.DEVIATION[0] + segmentation.MEAN[0]


def test_camvid(study, camvid):
    task = study.data.load("camvid", data_dir=camvid, batch_size=4)
    assert [len(d) for d in (task.train, task.validation, task.test)] == [
        2,
        1,
        2,
    ]
    assert task.network == {"classes": 11, "input_shape": (120, 160, 3)}
    assert task.measure == "mIoU"
    for dataset in (task.train, task.validation, task.test):
        images, labels = arrays(dataset)
        assert images.shape[1:] == (120, 160, 3)
        assert set(np.unique(labels)) == {*range(11), VOID}
        # Images and labels are mirrored together.
        expected = np.where(labels == VOID, 11, labels)
        np.testing.assert_allclose(reds(study, images), expected, atol=1e-3)


def test_half_of_the_images_are_mirrored_anew_in_each_epoch(study, camvid):
    def first_pixels(seed, augment=True):
        task = study.data.load(
            "camvid", data_dir=camvid, seed=seed, augment=augment
        )
        return [arrays(task.train)[1] for _ in range(5)]

    def differing(epochs):
        """Counts distinct images, including mirrored ones."""
        images = np.concatenate(epochs)
        return len({image.tobytes() for image in images})

    assert differing(first_pixels(0, augment=False)) == 7
    epochs = first_pixels(0)
    assert 12 <= differing(epochs) <= 14  # Of 7, each of them 5 times.
    for epoch, again in zip(epochs, first_pixels(0), strict=True):
        np.testing.assert_array_equal(epoch, again)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], first_pixels(1)[0])


def test_a_subset_is_of_the_training_data_alone(study, camvid):
    task = study.data.load("camvid", data_dir=camvid, subset=2, batch_size=2)
    assert [len(d) for d in (task.train, task.validation, task.test)] == [
        1,
        2,
        3,
    ]


@pytest.fixture
def mocked():
    """Makes TensorFlow Datasets return some examples for any data set."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def mock(examples):
        return tfds.testing.mock_data(
            as_dataset_fn=lambda *args, **kwargs: (
                tf.data.Dataset.from_tensor_slices(examples)
            )
        )

    return mock


def test_cityscapes_has_19_classes(study, mocked):
    # Raw labels of 33 things, each a stripe, from the data set's table.
    labels = np.arange(64).repeat(2)[None, None, :, None]
    labels = labels.repeat(64, 1).astype("uint8")
    images = np.zeros((1, 64, 128, 3), "uint8")
    with mocked({"image_left": images, "segmentation_label": labels}):
        task = study.data.load("cityscapes", batch_size=1)
        images, labels = next(task.test.as_numpy_iterator())
    assert images.shape == (1, 512, 1024, 3)
    assert labels.shape == (1, 512, 1024)
    assert task.network == {"classes": 19, "input_shape": (512, 1024, 3)}
    found = labels[0, 0].reshape(64, 16)  # Each stripe is 16 pixels now.
    assert (found == found[:, :1]).all()
    names = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8}
    names |= {22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15}
    names |= {31: 16, 32: 17, 33: 18}
    assert found[:, 0].tolist() == [names.get(i, VOID) for i in range(64)]


# COCO's numbers of the 20 classes of Pascal VOC, in order, and those that COCO
# omits.
VOC = [5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]
LEFT_OUT = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_coco_has_the_classes_of_pascal_voc(study, mocked):
    # Each segment is a pixel; the last two have no label.
    numbers = np.array([*range(1, 81), 100_000, 3_000_000, 0, 255])
    colours = [numbers % 256, numbers // 256 % 256, numbers // 256**2]
    panoptic = np.stack(colours, -1).astype("uint8").reshape(7, 12, 3)
    rng = np.random.default_rng(0)
    order = rng.permutation(82)
    objects = {
        "id": numbers[:82][order],
        "label": np.array([*range(80), 80, 132])[order],
    }
    example = {
        "image": np.zeros((7, 12, 3), "uint8"),
        "panoptic_image": panoptic,
        "panoptic_objects": objects,
    }
    example = keras.tree.map_structure(lambda x: x[None], example)
    with mocked(example):
        task = study.data.load("coco", batch_size=1)
        _, labels = next(task.test.as_numpy_iterator())
    assert task.network == {"classes": 21, "input_shape": (480, 480, 3)}
    assert labels.shape == (1, 480, 480)
    # 40 pixels each, and void below, since the image is wider than high.
    assert (labels[0, 280:] == VOID).all()
    found = labels[0, 20:280:40, 20::40].ravel()
    assert found[80:].tolist() == [0, 0, VOID, VOID]
    coco = [number for number in range(1, 91) if number not in LEFT_OUT]
    assert len(coco) == 80
    assert found[:80].tolist() == [
        VOC.index(number) + 1 if number in VOC else 0 for number in coco
    ]


def test_examples_are_as_tensorflow_datasets_gives_them(study):
    # For COCO it would generate segments without a class.
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=2):
        task = study.data.load("cityscapes", batch_size=2)
        for dataset in (task.train, task.test):
            images, labels = next(dataset.as_numpy_iterator())
            assert images.shape == (2, *task.network["input_shape"])
            assert images.dtype == "float32"
            assert labels.shape == images.shape[:3]


def test_scaled_and_cropped_images_keep_their_labels(study, mocked):
    # A gray image with four light squares, which are cars: label 26.
    labels = np.full((8, 32, 64, 1), 7, "uint8")
    labels[:, 4:12, 8:24] = labels[:, 20:28, 40:60] = 26
    images = np.where(labels == 26, 240, 60).repeat(3, -1).astype("uint8")
    with mocked({"image_left": images, "segmentation_label": labels}):
        task = study.data.load("cityscapes", batch_size=8, seed=3)
        epochs = [arrays(task.train) for _ in range(2)]
        _, whole = arrays(task.test)
    shares = []
    for images, labels in epochs:
        red = reds(study, images)
        assert set(np.unique(labels)) == {0, 13, VOID}
        assert (np.abs(red[labels == VOID] - 123.7) < 1).all()
        # The labels change halfway between the two.
        light = red[labels != VOID] > 150
        assert np.mean(light == (labels[labels != VOID] == 13)) > 0.99
        shares += [float(np.mean(each == VOID)) for each in labels]
    # For a scale below 1, a fraction is void: 1 - scale**2.
    assert 0 < max(shares) <= 0.75 + 1e-2
    assert min(shares) == 0
    assert len(set(shares)) > 3  # 0, and others
    assert not (whole == VOID).any()


# Networks.


def sizes(model):
    """Returns the number of parameters, and of prunable ones."""
    return (
        sum(math.prod(v.shape) for v in model.trainable_variables),
        sum(kernel.size for kernel in find_prunable(model).kernels),
    )


def test_pspnet_has_the_parameters_of_its_parts(study):
    # A ResNet-50 without its classifier of 2048 x 1000 weights and a bias.
    resnet = 25_557_032 - 2_049_000
    of_batch_norm = 2 * (64 + 256 + 512 + 1024 + 2048)
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        of_batch_norm += 2 * blocks * (width + width + 4 * width)
    pyramid = 4 * 2048 * 512 + 4096 * 512 * 9
    classifier = 512 * 19
    parameters, prunable = sizes(study.networks.pspnet(input_shape=(64, 64, 3)))
    assert prunable == resnet - of_batch_norm + pyramid + classifier
    assert parameters == resnet + pyramid + 5 * 2 * 512 + classifier + 19
    assert (parameters, prunable) == (46_591_571, 46_533_312)


def small_pspnet(study, **kwargs):
    options = {
        "classes": 5,
        "input_shape": (37, 53, 3),
        "width": 8,  # With 4, torch 2.13 corrupts memory on a CPU.
        "blocks": (1, 1, 1, 1),
        "bottleneck": False,
    }
    return study.networks.pspnet(**{**options, **kwargs})


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_pspnet_dilates_what_it_does_not_stride(study, stride, bottleneck):
    model = small_pspnet(study, stride=stride, bottleneck=bottleneck)
    assert model.output_shape == (None, 37, 53, 5)
    dilations = [
        layer.dilation_rate[0]
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
        and layer.kernel_size == (3, 3)
    ]
    each = 1 if bottleneck else 2
    assert dilations == [1] * 2 * each + [2] * each + [4] * each + [1]
    pooled = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.AveragePooling2D)
    ]
    # On 5 x 7 features, no more than 5 cells fit.
    fit = min(6, -(-37 // stride))
    assert [layer.output.shape[1:3] for layer in pooled] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (fit, 6),
    ]
    shape = pooled[0].input.shape[1:3]
    assert shape == (-(-37 // stride), -(-53 // stride))


def test_pspnet_refuses_another_stride(study):
    with pytest.raises(ValueError, match=r"`stride`.*stride=16"):
        small_pspnet(study, stride=16)


def pruned_and_trained(model, study):
    """Prunes a wrapped model to 80%, and trains it on noise."""
    segmentation = study.data.segmentation
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, *model.input_shape[1:]), "float32")
    labels = rng.integers(0, 5, images.shape[:-1]).astype("uint8")
    labels[:, :5] = VOID
    model = keras_bimp.wrap(model)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        segmentation.loss(),
        metrics=segmentation.metrics(5),
        # TensorFlow would take longer to compile than to train.
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
    )
    history = model.fit(
        images,
        labels,
        batch_size=2,
        callbacks=keras_bimp.callbacks(
            0.8, dense_epochs=0, retraining="llr", verbose=0
        ),
        verbose=0,
    ).history
    assert np.isfinite(history["loss"]).all()
    return model, images


def zeros(model):
    return sum(
        int((ops.convert_to_numpy(kernel.variable) == 0).sum())
        for kernel in find_prunable(model).kernels
    )


@OF_KERAS_ON_JAX
@pytest.mark.every_backend
def test_pspnet_is_pruned_and_trained(study):
    model = small_pspnet(study, weight_decay=1e-3)
    model, _ = pruned_and_trained(model, study)
    pruned = keras_bimp.strip(model)
    assert zeros(pruned) == round(0.8 * sizes(pruned)[1])


def test_pruned_pspnet_computes_the_same_stripped_and_loaded(study, tmp_path):
    model, images = pruned_and_trained(small_pspnet(study), study)
    before = model.predict_on_batch(images)
    pruned = keras_bimp.strip(model)
    np.testing.assert_array_equal(pruned.predict_on_batch(images), before)
    pruned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(
        loaded.predict_on_batch(images), before, rtol=1e-4, atol=1e-5
    )


def test_deeplab_v3_has_the_parameters_of_the_preset(study):
    model = study.networks.deeplab_v3(input_shape=(64, 64, 3))
    # According to KerasHub's `deeplab_v3_plus_resnet50_pascalvoc`, without the
    # last convolution of 256 filters.
    assert model.count_params() == 39_190_656 + 256 * 21
    assert sizes(model) == (39_139_232, 39_082_432)


def test_deeplab_v3_is_pruned_trained_and_stripped(study):
    model = study.networks.deeplab_v3(
        classes=5,
        input_shape=(37, 53, 3),
        blocks=(1, 1, 1, 1),
        bottleneck=False,
        weight_decay=1e-3,
    )
    assert model.output_shape == (None, 37, 53, 5)
    kernels = [
        ops.convert_to_numpy(v)
        for v in model.trainable_variables
        if v.name == "kernel"
    ]
    assert float(sum(model.losses)) == pytest.approx(
        1e-3 / 2 * sum(np.square(kernel).sum() for kernel in kernels), rel=1e-4
    )
    model, images = pruned_and_trained(model, study)
    before = model.predict_on_batch(images)
    pruned = keras_bimp.strip(model)
    np.testing.assert_array_equal(pruned.predict_on_batch(images), before)
    assert zeros(pruned) == round(0.8 * sizes(pruned)[1])


def test_without_keras_hub_it_is_said_how_to_get_it(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match="pip install --no-deps keras-hub"):
        study.networks.deeplab_v3()


def test_keras_hub_is_not_imported_with_the_networks():
    code = "import sys, study.networks; assert 'keras_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES, check=True)


# The example.


def test_the_example_as_a_newcomer_runs_it(camvid, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "segmentation.py"),
            f"--data_dir={camvid}",
            f"--output_dir={tmp_path}",
            "--epochs=2",
            "--dense_epochs=1",
            "--cycles=1",
            "--pictures=2",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    model = keras.models.load_model(tmp_path / "model.keras")
    _, prunable = sizes(model)
    assert summary["sparsity"] == round(0.9 * prunable) / prunable
    assert lines_with(done.stdout, f"{summary['dense_miou']:.2f}", "90.00%")
    assert (tmp_path / "examples.png").stat().st_size > 10_000
