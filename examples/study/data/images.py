"""Image classification data sets that fit into memory."""

import functools
import math

import tensorflow as tf
import tensorflow_datasets as tfds

from . import classification

# Mean and standard deviation of each channel, for values from 0 to 1.
_STATISTICS = {
    "fashion_mnist": ((0.286,), (0.353,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
_PADDING = 4
_ROTATION = math.radians(15)


def load(name, data_dir, batch_size, subset, augment, seed):
    """Loads a task for `data.load`: images of a few classes.

    The last 10% of the training images are for validation; with a subset, 10%
    of its size. CIFAR images are augmented: padded by 4 pixels, cropped and
    flipped, and for CIFAR-100 also rotated by up to 15 degrees.
    """
    parts, info = tfds.load(
        name,
        split=["train[:90%]", "train[90%:]", "test"],
        data_dir=data_dir,
        as_supervised=True,
        with_info=True,
    )
    classification.check_subset(subset, len(parts[0]))
    if subset is not None:
        parts[0] = parts[0].take(subset)
        parts[1] = parts[1].take(max(subset // 10, 1))
    train, validation, test = (
        part.batch(len(part)).get_single_element() for part in parts
    )
    change = None
    if augment and name != "fashion_mnist":
        change = functools.partial(_augmented, rotate=name == "cifar100")
    return in_memory(
        (train, validation, test),
        _STATISTICS[name],
        batch_size,
        seed,
        change,
        classes=info.features["label"].num_classes,
        notice=(info.metadata or {}).get("notice", ""),
    )


def in_memory(
    parts, statistics, batch_size, seed, change=None, *, classes, notice=""
):
    """Returns a classification task for images that are in memory.

    Args:
        parts: Training, validation and test set, each `(images, labels)`.
        statistics: Mean and deviation of each channel, for values from 0 to 1.
        batch_size: Batch size of the training data.
        seed: Seed for the order of the training data.
        change: Function `(batches, seed) -> batches` that augments them.
        classes: Number of classes.
        notice: As in `Task`.
    """
    train, validation, test = parts
    normalized = classification.normalization(*statistics)

    def held_out(examples):
        dataset = tf.data.Dataset.from_tensor_slices(examples)
        return dataset.batch(1000).map(normalized).prefetch(1)

    dataset = tf.data.Dataset.from_tensor_slices(train)
    dataset = dataset.shuffle(len(train[1]), seed=seed).batch(batch_size)
    if change:
        dataset = change(dataset, seed)
    return classification.task(
        train=dataset.map(normalized).prefetch(tf.data.AUTOTUNE),
        validation=held_out(validation),
        test=held_out(test),
        classes=classes,
        input_shape=train[0].shape[1:],
        notice=notice,
    )


def _augmented(dataset, seed, rotate):
    def augmented(examples, seed):
        images, labels = examples
        images = flipped_crops(images, seed)
        if rotate:
            images = rotated(images, seed + 2)
        return images, labels

    pairs = tf.data.Dataset.zip(dataset, classification.random_seeds(seed))
    return pairs.map(augmented, num_parallel_calls=tf.data.AUTOTUNE)


def flipped_crops(images, seed):
    """Shifts images by up to 4 pixels, and mirrors half of them.

    The border is filled with black.
    """
    count, height, width = tf.unstack(tf.shape(images)[:3])
    around = [_PADDING, _PADDING]
    padded = tf.pad(images, [[0, 0], around, around, [0, 0]])
    draws = tf.random.stateless_uniform(
        [2, count, 1], seed, maxval=2 * _PADDING + 1, dtype=tf.int32
    )
    mirrored = tf.random.stateless_uniform([count, 1], seed + 1) < 0.5
    columns = tf.range(width)
    columns = tf.where(mirrored, columns[::-1], columns)
    rows = draws[0] + tf.range(height)
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(cropped, draws[1] + columns, axis=2, batch_dims=1)


def rotated(images, seed):
    """Rotates images about their centers by up to 15 degrees either way."""
    shape = tf.shape(images)
    angles = tf.random.stateless_uniform(
        shape[:1], seed, minval=-_ROTATION, maxval=_ROTATION
    )
    sine, cosine = tf.sin(angles), tf.cos(angles)
    y, x = tf.unstack(tf.cast(shape[1:3] - 1, tf.float32) / 2)
    nothing = tf.zeros_like(angles)
    # A pixel of the result is the pixel at (a x + b y + c, d x + e y + f).
    transforms = [
        *(cosine, -sine, x - x * cosine + y * sine),
        *(sine, cosine, y - x * sine - y * cosine),
        *(nothing, nothing),
    ]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(transforms, axis=1),
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
    )
