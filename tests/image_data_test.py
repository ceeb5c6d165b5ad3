"""The studies' images: splits, shuffling and augmentation."""

import unittest.mock

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from from_examples import STUDY
from from_examples import importable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    with importable(STUDY):
        import data

        yield data


# Small copies in the file format of TensorFlow Datasets.


def cifar100_examples(count, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield (
            str(i),
            {
                "id": str(i),
                "image": rng.integers(0, 256, (32, 32, 3), "uint8"),
                "label": i % 7,
                "coarse_label": 0,
            },
        )


def imagenet_examples(count, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        shape = (*rng.integers(20, 40, 2), 3)
        image = np.full(shape, rng.integers(0, 256, 3), "uint8")
        name = f"{seed}_{i}.jpeg"
        yield name, {"file_name": name, "image": image, "label": i}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Creates a folder with 100 images of CIFAR-100 and 60 of ImageNet."""
    folder = tmp_path_factory.mktemp("data")
    for name, splits in (
        ("cifar100", {"train": cifar100_examples(100, 0)}),
        ("imagenet2012", {"train": imagenet_examples(60, 0)}),
    ):
        if name == "cifar100":
            splits["test"] = cifar100_examples(20, 1)
        else:
            splits["validation"] = imagenet_examples(20, 1)
        builder = tfds.builder(name, data_dir=folder)
        with unittest.mock.patch.object(
            type(builder), "_split_generators", lambda *args, s=splits: s
        ):
            builder.download_and_prepare()
    return folder


def images_of(dataset):
    return np.concatenate([images for images, _ in dataset])


def names_of(dataset):
    """Returns each image as bytes."""
    return [image.tobytes() for image in images_of(dataset)]


@pytest.mark.parametrize(
    ("name", "sizes", "held_out"),
    # With 6 training images, 10% of that number are held out for CIFAR.
    [("cifar100", (90, 10, 20), 1), ("imagenet2012", (59, 1, 20), 1)],
)
def test_no_image_is_in_two_of_training_validation_and_test(
    data, data_dir, name, sizes, held_out
):
    task = data.load(name, data_dir=data_dir, batch_size=32, augment=False)
    parts = [names_of(x) for x in (task.train, task.validation, task.test)]
    assert tuple(map(len, parts)) == sizes
    assert len(task.train) == -(-sizes[0] // 32)
    assert len(set().union(*parts)) == sum(sizes)
    subset = data.load(
        name, data_dir=data_dir, batch_size=4, augment=False, subset=6
    )
    assert len(subset.train) == 2
    images = set(names_of(subset.train))
    # The same ones in every epoch.
    assert images == set(names_of(subset.train))
    assert len(images) == 6
    assert images < set(parts[0])
    assert names_of(subset.validation) == parts[1][:held_out]
    with pytest.raises(
        ValueError, match=rf"`subset`.*\b{sizes[0]}\b.*subset=1000"
    ):
        data.load(name, data_dir=data_dir, subset=1000)


@pytest.mark.parametrize("name", ["cifar100", "imagenet2012"])
@pytest.mark.parametrize("augment", [False, True])
def test_order_and_crops_are_those_of_seed_and_epoch(
    data, data_dir, name, augment
):
    def epochs(seed, count=2):
        task = data.load(
            name,
            data_dir=data_dir,
            batch_size=16,
            augment=augment,
            seed=seed,
        )
        return [names_of(task.train) for _ in range(count)]

    first, second = epochs(3)
    assert [first, second] == epochs(3)
    (other,) = epochs(4, 1)
    assert first != second
    assert first != other
    # Without augmentation only the order differs.
    same = set(first) & set(second)
    assert len(same) < 3 if augment else same == set(first) == set(other)


def test_pixels_have_mean_0_and_deviation_1_by_the_data_sets_figures(
    data, data_dir
):
    task = data.load("cifar100", data_dir=data_dir, augment=False)
    raw, _ = tfds.load(
        "cifar100",
        split="test",
        data_dir=data_dir,
        as_supervised=True,
        batch_size=-1,
    )
    mean = np.array([0.5071, 0.4867, 0.4408])
    deviation = np.array([0.2675, 0.2565, 0.2761])
    expected = (raw.numpy() / 255 - mean) / deviation
    np.testing.assert_allclose(images_of(task.test), expected, atol=1e-5)


def test_classes_are_those_of_the_data_set_not_of_the_examples(data, data_dir):
    task = data.load("cifar100", data_dir=data_dir, subset=5)
    assert task.network == {"classes": 100, "input_shape": (32, 32, 3)}
    assert task.notice == ""


def test_an_unknown_name_is_told(data):
    with pytest.raises(ValueError, match=r"`name`.*cifar100.*name='mnist'"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("cifar100", {"classes": 100, "input_shape": (32, 32, 3)}),
        ("imagenet2012", {"classes": 1000, "input_shape": (224, 224, 3)}),
    ],
)
def test_mock_data_come_in_batches_of_the_right_shape(data, name, network):
    with tfds.testing.mock_data(num_examples=5):
        task = data.load(name, batch_size=4)
        found = [
            (images.shape, images.dtype, labels.dtype)
            for images, labels in task.train
        ]
    assert task.network == network
    assert found == [
        ((4, *network["input_shape"]), tf.float32, tf.int64),
        ((1, *network["input_shape"]), tf.float32, tf.int64),
    ]


# CIFAR's augmentation.


def test_crops_are_windows_of_the_padded_images_half_of_them_mirrored(data):
    count, size = 3000, 5
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (count, size, size, 1), "uint8")
    found = data.images.flipped_crops(images, np.array([1, 2])).numpy()
    around = [(0, 0), (4, 4), (4, 4), (0, 0)]
    padded = np.pad(images, around)
    # Counts of each window, mirrored or not.
    seen = np.zeros((2, 9, 9))
    for mirrored in range(2):
        for down in range(9):
            for right in range(9):
                window = padded[:, down : down + size, right : right + size]
                window = window[:, :, ::-1] if mirrored else window
                same = (window == found).all(axis=(1, 2, 3))
                # If one pixel of an image is left, another may be the same.
                seen[mirrored, down, right] = same.sum()
    assert count <= seen.sum() < 1.05 * count
    assert 0.45 < seen[0].sum() / seen.sum() < 0.55
    # 18 of each are expected.
    assert seen.min() > 3
    assert seen.max() < 50


def test_rotations_are_about_the_centre_by_up_to_15_degrees(data):
    count, size = 200, 33
    place = np.arange(size, dtype="float32") - size // 2
    down, right = np.meshgrid(place, place, indexing="ij")
    images = np.stack([down + 100, right + 100], axis=-1)
    images = np.broadcast_to(images, (count, *images.shape))
    found = data.images.rotated(images, np.array([1, 2])).numpy()
    # Away from the corners, pixels are rotated.
    inside = np.hypot(down, right) < 14
    places = np.stack([down[inside], right[inside]], axis=1)
    angles = []
    for image in found:
        turn, *_ = np.linalg.lstsq(places, image[inside] - 100, rcond=None)
        np.testing.assert_allclose(
            places @ turn, image[inside] - 100, atol=1e-3
        )
        angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
        sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        np.testing.assert_allclose(
            turn, [[cosine, -sine], [sine, cosine]], atol=1e-4
        )
        angles.append(angle)
    assert -15 <= min(angles) < -13
    assert 13 < max(angles) <= 15
    assert abs(np.mean(angles)) < 2
    # The border is black.
    assert (found[:, 0, 0] == 0).any()


# ImageNet's.


def position_jpeg(height, width):
    """Creates a JPEG whose red is the column and whose green is the row."""
    image = np.zeros((height, width, 3), "uint8")
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return tf.io.encode_jpeg(
        image, quality=100, chroma_downsampling=False
    ).numpy()


def corners(image):
    """Returns (left, right, top, bottom) of the crop, from its colors."""
    assert image.shape == (224, 224, 3)
    red, green = image[112, :, 0], image[:, 112, 1]
    # From the middle half, since resampling differs at the borders.
    found = []
    for line in (red, green):
        slope, begin = np.polyfit(np.arange(56, 168) + 0.5, line[56:168], 1)
        found += [begin + 0.5, begin + 224 * slope + 0.5]
    return found


def test_random_crops_are_parts_of_the_image_half_of_them_mirrored(data):
    height, width = 160, 240
    jpeg = position_jpeg(height, width)
    mirrored, areas, ratios = [], [], []
    for i in range(150):
        image = data.imagenet.random_crop(jpeg, np.array([i, 7])).numpy()
        left, right, top, bottom = corners(image)
        mirrored.append(left > right)
        left, right = sorted((left, right))
        assert -2 < left < right < width + 2
        assert -2 < top < bottom < height + 2
        areas.append((right - left) * (bottom - top) / (height * width))
        ratios.append((right - left) / (bottom - top))
    assert 50 < sum(mirrored) < 100
    assert 0.07 < min(areas) < 0.2
    assert 0.8 < max(areas) < 1.02
    assert 0.7 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.4


@pytest.mark.parametrize(("height", "width"), [(160, 240), (240, 160)])
def test_the_central_crop_is_of_an_image_of_256(data, height, width):
    image = data.imagenet.central_crop(position_jpeg(height, width)).numpy()
    side = 160 * 224 / 256
    expected = [
        (width - side) / 2,
        (width + side) / 2,
        (height - side) / 2,
        (height + side) / 2,
    ]
    # Fast decoding of JPEG changes colors by half a percent.
    np.testing.assert_allclose(corners(image), expected, atol=2.5)
