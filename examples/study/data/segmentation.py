"""Semantic segmentation data sets."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from .task import Task

VOID = 255  # The label of pixels that are ignored.

# Of ImageNet's channels, for values from 0 to 255.
MEAN = 255 * np.array([0.485, 0.456, 0.406], "float32")
DEVIATION = 255 * np.array([0.229, 0.224, 0.225], "float32")

_SHUFFLED = 512  # Size of the shuffle buffer.


def load(name, data_dir, batch_size, subset, augment, seed):
    """Loads a task for `data.load`: images with a class for each pixel.

    - "camvid": 120x160 pixels, 11 classes, with a validation split. Half of the
      training images are mirrored.
    - "cityscapes": halved to 512x1024 pixels, 19 classes. The labels of its
      test split are not public, so its validation split is the test set, and
      10% of the training data are held out for validation.
    - "coco": resized to 480x480 pixels, the 20 classes of Pascal VOC, as usual
      for DeepLabV3, and 0 for all others, from COCO's panoptic labels. Splits
      as for Cityscapes.

    The last two are also augmented by a scale between 0.5 and 2 and a crop.
    Pixels outside of an image or without a label are void: they count neither
    for the loss nor for the score.
    """
    source = _SOURCES[name]
    of_train, of_validation, of_test = source.splits
    if subset is not None:
        of_train = f"train[:{subset}]"
    read = functools.partial(_read, source, data_dir, seed)
    whole = functools.partial(_part, size=source.size)

    def held_out(split):
        return _batched(_mapped(read(split), whole), batch_size)

    train = read(of_train)
    if augment:
        train = _augmented(train, source, seed)
    else:
        train = _mapped(train, whole)
    train = train.shuffle(_SHUFFLED, seed)
    return Task(
        train=_batched(train, batch_size),
        validation=held_out(of_validation),
        test=held_out(of_test),
        network={"classes": source.classes, "input_shape": (*source.size, 3)},
        loss=loss(),
        metrics=functools.partial(metrics, source.classes),
        measure="mIoU",
        score=mean_iou,
    )


def loss():
    """Returns the mean crossentropy of the pixels that are not void."""
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=VOID
    )


def metrics(classes):
    return [
        keras.metrics.MeanIoU(
            classes,
            name="mean_iou",
            ignore_class=VOID,
            sparse_y_pred=False,
        )
    ]


def mean_iou(model, batches):
    """Returns the mIoU of a compiled model over all batches, in percent.

    The mean is over the classes that are in the labels or the predictions.
    """
    found = model.evaluate(batches, verbose=0, return_dict=True)
    return 100 * found["mean_iou"]


@dataclasses.dataclass(frozen=True)
class _Source:
    """A data set and its preprocessing.

    Attributes:
        name: Its name in TensorFlow Datasets.
        splits: Training, validation and test splits.
        size: Height and width of the network's input.
        classes: Number of classes.
        labelled: Function from an example to image and labels.
        scales: Smallest and largest scale of augmentation.
        fits_in_memory: Whether images are decoded only once.
    """

    name: str
    splits: tuple[str, str, str]
    size: tuple[int, int]
    classes: int
    labelled: Callable[[dict], tuple[tf.Tensor, tf.Tensor]]
    scales: tuple[float, float]
    fits_in_memory: bool = False


def _read(source, data_dir, seed, split):
    dataset = tfds.load(
        source.name,
        split=split,
        data_dir=data_dir,
        shuffle_files=split.startswith("train") and not source.fits_in_memory,
        read_config=tfds.ReadConfig(
            shuffle_seed=seed, shuffle_reshuffle_each_iteration=True
        ),
    )
    dataset = _mapped(dataset, source.labelled)
    return dataset.cache() if source.fits_in_memory else dataset


def _mapped(dataset, function):
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)


def _batched(dataset, batch_size):
    def normalized(images, labels):
        return (tf.cast(images, tf.float32) - MEAN) / DEVIATION, labels

    return _mapped(dataset.batch(batch_size), normalized).prefetch(1)


def _augmented(dataset, source, seed):
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    smallest, largest = source.scales

    def augmented(seeds, example):
        draws = tf.random.stateless_uniform([4], seeds)
        scale = smallest + (largest - smallest) * draws[0]
        part = _part(*example, source.size, scale, at=draws[1:3])
        mirrored = draws[3] < 0.5
        return tuple(tf.where(mirrored, tf.reverse(x, [1]), x) for x in part)

    return _mapped(tf.data.Dataset.zip(seeds.batch(2), dataset), augmented)


def _part(image, labels, size, scale=1.0, at=(0.0, 0.0)):
    """Crops the part of an image that a network sees.

    Args:
        image: Pixels, of any height and width.
        labels: The labels of the pixels.
        size: Height and width of the part.
        scale: At 1 the whole image just fits into the part.
        at: Relative position of the part, from 0, top or left, to 1.

    Returns:
        Pixels and labels of the part. Outside of the image it is void.
    """
    shape = tf.cast(tf.shape(labels), tf.float32)
    scale *= tf.reduce_min(tf.constant(size, tf.float32) / shape)
    scaled = tf.cast(tf.round(scale * shape), tf.int32)
    image = tf.image.resize(image, scaled) - MEAN
    labels = tf.image.resize(labels[..., tf.newaxis], scaled, "nearest")
    below, beside = tf.unstack(tf.maximum(size - scaled, 0))
    around = [[0, below], [0, beside], [0, 0]]
    image = tf.pad(image, around) + MEAN
    labels = tf.pad(labels, around, constant_values=VOID)
    places = tf.cast(tf.maximum(scaled - size, 0) + 1, tf.float32)
    begin = [*tf.unstack(tf.cast(places * at, tf.int32)), 0]
    image = tf.slice(image, begin, [*size, 3])
    labels = tf.slice(labels, begin, [*size, 1])
    return tf.saturate_cast(tf.round(image), tf.uint8), labels[..., 0]


def _of_camvid(example):
    labels = example["segmentation_mask"][..., 0]
    return example["image"], tf.where(labels == 11, np.uint8(VOID), labels)


# Cityscapes has 34 labels. These are the classes for training.
_CITYSCAPES = np.full(256, VOID, "uint8")
_CITYSCAPES[
    [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
] = range(19)

# COCO has 80 thing classes, then 53 stuff classes. The classes of Pascal VOC
# are, in order: aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair,
# cow, table, dog, horse, motorbike, person, plant, sheep, sofa, train,
# television.
_COCO = np.zeros(133, "uint8")
_COCO[
    [4, 1, 14, 8, 39, 5, 2, 15, 56, 19, 60, 16, 17, 3, 0, 58, 18, 57, 6, 62]
] = range(1, 21)


def _of_cityscapes(example):
    labels = tf.cast(example["segmentation_label"][..., 0], tf.int32)
    return example["image_left"], tf.gather(_CITYSCAPES, labels)


def _of_coco(example):
    """Decodes COCO's panoptic images: a color is a segment id in base 256."""
    colours = tf.cast(example["panoptic_image"], tf.int32)
    numbers = tf.reduce_sum(colours * [1, 256, 256**2], axis=-1)
    known = tf.cast(example["panoptic_objects"]["id"], tf.int32)
    classes = tf.gather(_COCO, example["panoptic_objects"]["label"])
    order = tf.argsort(known)
    # Black has no label, and neither has an id without a segment.
    known = tf.concat([[0], tf.gather(known, order)], axis=0)
    classes = tf.concat([[VOID], tf.gather(classes, order)], axis=0)
    places = tf.searchsorted(known, tf.reshape(numbers, [-1]), side="right") - 1
    places = tf.reshape(places, tf.shape(numbers))
    labels = tf.where(
        tf.gather(known, places) == numbers,
        tf.gather(classes, places),
        np.uint8(VOID),
    )
    return example["image"], labels


_HELD_OUT = ("train[:90%]", "train[90%:]", "validation")
_SOURCES = {
    "camvid": _Source(
        name="camvid",
        splits=("train", "validation", "test"),
        size=(120, 160),
        classes=11,
        labelled=_of_camvid,
        scales=(1.0, 1.0),
        fits_in_memory=True,
    ),
    "cityscapes": _Source(
        name="cityscapes/semantic_segmentation",
        splits=_HELD_OUT,
        size=(512, 1024),
        classes=19,
        labelled=_of_cityscapes,
        scales=(0.5, 2.0),
    ),
    "coco": _Source(
        name="coco/2017_panoptic",
        splits=_HELD_OUT,
        size=(480, 480),
        classes=21,
        labelled=_of_coco,
        scales=(0.5, 2.0),
    ),
}
