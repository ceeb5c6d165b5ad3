"""Prunes a WideResNet-28-10 on CIFAR-100 within a budget of 200 epochs.

This is `cifar10.py` with other defaults. To see its flags: python
examples/cifar10.py --help. It needs an accelerator: an epoch takes 800 trillion
multiply-adds.
"""

import cifar10
from absl import app
from absl import flags

FLAGS = flags.FLAGS
FLAGS.set_default("dataset", "cifar100")
FLAGS.set_default("network", "wide_resnet_28_10")
FLAGS.set_default("output_dir", "output/cifar100")

if __name__ == "__main__":
    app.run(cifar10.main)
