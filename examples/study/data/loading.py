"""Tasks by the names that TensorFlow Datasets has for their data."""

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
    """Data, loss and measure of a task.

    Args:
        name: Of a data set of TensorFlow Datasets.
        data_dir: Where TensorFlow Datasets keeps data.
        batch_size: Of the training data; what is left over of an epoch makes
            a smaller batch.
        subset: Number of training examples; all of them by default, but for
            those held out for validation.
        augment: Whether training examples are augmented as in the paper.
        seed: Of the order of the training examples and of augmentation.

    Returns:
        A `Task`.
    """
    if name not in NAMES:
        raise ValueError(
            f"`name` must be one of {', '.join(NAMES)}. Received: name={name!r}"
        )
    return _LOADERS[name](name, data_dir, batch_size, subset, augment, seed)
