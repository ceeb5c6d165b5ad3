"""Fashion-MNIST and a small residual network, which several examples use."""

import keras
import tensorflow_datasets as tfds


def load_fashion_mnist(data_dir, train_split="train"):
    """Returns the training and test sets, with images of mean 0 and std 1."""
    parts = []
    for split in (train_split, "test"):
        images, labels = tfds.as_numpy(
            tfds.load(
                "fashion_mnist",
                split=split,
                data_dir=data_dir,
                as_supervised=True,
                batch_size=-1,
            )
        )
        parts.append(((images.astype("float32") / 255 - 0.286) / 0.353, labels))
    return parts


def build_residual_network(
    weight_decay=2e-4, batch_norm_momentum=0.99, hidden_units=0
):
    """Builds a residual network for 28x28 images.

    Args:
        weight_decay: Coupled: this fraction of a weight is added to its
            gradient.
        batch_norm_momentum: Momentum of the moving statistics.
        hidden_units: Units of a dense layer before the last. With 0 units
            there is global pooling instead, and the network has 72,464
            prunable weights; with 256 it has 336,528.
    """
    regularizer = keras.regularizers.L2(weight_decay / 2)

    def convolution(x, filters, size=3, strides=1):
        x = keras.layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=regularizer,
        )(x)
        return keras.layers.BatchNormalization(momentum=batch_norm_momentum)(x)

    def residual_block(x, filters, strides):
        shortcut = x
        if strides > 1:
            shortcut = convolution(x, filters, size=1, strides=strides)
        x = keras.layers.ReLU()(convolution(x, filters, strides=strides))
        x = convolution(x, filters)
        return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))

    inputs = keras.Input((28, 28, 1))
    x = keras.layers.ReLU()(convolution(inputs, 16, strides=2))
    for filters, strides in ((32, 2), (64, 2)):
        x = residual_block(x, filters, strides)
    if hidden_units:
        x = keras.layers.Dense(
            hidden_units,
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=regularizer,
        )(keras.layers.Flatten()(x))
        x = keras.layers.BatchNormalization(momentum=batch_norm_momentum)(x)
        x = keras.layers.ReLU()(x)
    else:
        x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))
