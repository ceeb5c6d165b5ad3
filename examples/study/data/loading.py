"""Tasks by the TensorFlow Datasets names of their data."""

from . import digits
from . import imagenet
from . import images
from . import segmentation
from . import translation

_LOADERS = {
    "digits": digits.load,
    "fashion_mnist": images.load,
    "cifar10": images.load,
    "cifar100": images.load,
    "imagenet2012": imagenet.load,
    "camvid": segmentation.load,
    "cityscapes": segmentation.load,
    "coco": segmentation.load,
    "multi30k": translation.load,
    "wmt16": translation.load,
}
NAMES = tuple(sorted(_LOADERS))


def load(
    name, *, data_dir=None, batch_size=128, subset=None, augment=True, seed=0
):
    """Loads the data, loss and metric of a task.

    Args:
        name: The name of a data set in TensorFlow Datasets.
        data_dir: Where TensorFlow Datasets keeps data.
        batch_size: Batch size of the training data; the last batch of an epoch
            may be smaller.
        subset: Number of training examples. Defaults to all except those held
            out for validation.
        augment: Whether to augment training examples as in the paper.
        seed: Seed for the order of training examples and for augmentation.

    Returns:
        A `Task`.
    """
    if name not in NAMES:
        raise ValueError(
            f"`name` must be one of {', '.join(NAMES)}. Received: name={name!r}"
        )
    return _LOADERS[name](name, data_dir, batch_size, subset, augment, seed)
