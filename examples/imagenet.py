"""Prunes a ResNet-50 on ImageNet within a budget of 90 epochs.

This is `cifar10.py` with other defaults. To see its flags: python
examples/cifar10.py --help. ImageNet must be in `--data_dir`, prepared by
TensorFlow Datasets from the archives of its owners:
https://www.tensorflow.org/datasets/catalog/imagenet2012. The last 1% of the
training images are for validation. The official validation images, whose labels
are public, are the test set.
"""

import cifar10
from absl import app
from absl import flags

FLAGS = flags.FLAGS
FLAGS.set_default("dataset", "imagenet2012")
FLAGS.set_default("network", "keras_resnet50")
FLAGS.set_default("target_sparsity", 0.9)
FLAGS.set_default("epochs", 90)
FLAGS.set_default("dense_epochs", 60)
FLAGS.set_default("weight_decay", 1e-4)
FLAGS.set_default("batch_size", 256)
FLAGS.set_default("output_dir", "output/imagenet")

if __name__ == "__main__":
    app.run(cifar10.main)
