"""ImageNet, read from files during training."""

import tensorflow as tf
import tensorflow_datasets as tfds

from . import classification

# Mean and standard deviation of each channel, for values from 0 to 1.
_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIZE = 224
_SHORTER_SIDE = 256
_SHUFFLED_TOGETHER = 5000  # JPEG files, of about 100 kB each.


def load(name, data_dir, batch_size, subset, augment, seed):
    """Loads a task for `data.load`: ImageNet, images of 224x224 pixels.

    The labels of its test split are not public. So, as usual, its validation
    split is the test set. The last 1% of the training images, 12,812, are for
    validation. Augmentation takes a random crop and mirrors half of the images.

    A `subset` is the first training images in the order of the files.
    """

    def read(split, **kwargs):
        return tfds.load(
            name,
            split=split,
            data_dir=data_dir,
            as_supervised=True,
            decoders={"image": tfds.decode.SkipDecoding()},
            with_info=True,
            **kwargs,
        )

    (validation, test), info = read(["train[99%:]", "validation"])
    train, _ = read(
        "train[:99%]",
        shuffle_files=subset is None,
        read_config=tfds.ReadConfig(shuffle_seed=seed),
    )
    classification.check_subset(subset, len(train))
    if subset is not None:
        train = train.take(subset)
    train = train.shuffle(_SHUFFLED_TOGETHER, seed=seed)
    if augment:
        train = tf.data.Dataset.zip(
            train, classification.random_seeds(seed)
        ).map(_augmented, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        train = train.map(_plain, num_parallel_calls=tf.data.AUTOTUNE)
    validation, test = (
        dataset.map(_plain, num_parallel_calls=tf.data.AUTOTUNE)
        for dataset in (validation, test)
    )
    normalized = classification.normalization(*_STATISTICS)
    train, validation, test = (
        dataset.batch(batch_size).map(normalized).prefetch(tf.data.AUTOTUNE)
        for dataset in (train, validation, test)
    )
    return classification.task(
        train,
        validation,
        test,
        classes=info.features["label"].num_classes,
        input_shape=(_SIZE, _SIZE, 3),
    )


def _augmented(example, seed):
    jpeg, label = example
    return random_crop(jpeg, seed), label


def _plain(jpeg, label):
    return central_crop(jpeg), label


def random_crop(jpeg, seed):
    """Crops 8 to 100% of an image with aspect ratio 3/4 to 4/3, and flips."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(jpeg),
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], axis=0)
    image = tf.io.decode_and_crop_jpeg(jpeg, window, channels=3)
    image = tf.image.resize(image, (_SIZE, _SIZE), antialias=True)
    return tf.image.stateless_random_flip_left_right(image, seed + 1)


def central_crop(jpeg):
    """Crops the middle of an image resized to a shorter side of 256 pixels."""
    image = tf.io.decode_jpeg(jpeg, channels=3)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    sides = tf.round(sides * (_SHORTER_SIDE / tf.reduce_min(sides)))
    image = tf.image.resize(image, tf.cast(sides, tf.int32), antialias=True)
    return tf.image.resize_with_crop_or_pad(image, _SIZE, _SIZE)
