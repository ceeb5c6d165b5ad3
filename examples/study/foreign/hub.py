"""Tasks and backbones of KerasHub, tiny and randomly initialized."""

import keras
import numpy as np
import tensorflow as tf

from .network import CLASSES
from .network import SAMPLES
from .network import Network
from .network import images
from .network import tokens

LENGTH, VOCABULARY, SIDE = 16, 64, 64
_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
_SIZES = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "hidden_dim": 32,
    "intermediate_dim": 64,
}


def _models():
    import keras_hub

    return keras_hub.models


def _sentences():
    rng = np.random.default_rng(0)
    return np.array([" ".join(rng.choice(_WORDS, 6)) for _ in range(SAMPLES)])


def _labels():
    return np.random.default_rng(1).integers(0, CLASSES, SAMPLES)


def _padded():
    """Returns tokens, and a mask that excludes the last ones."""
    mask = np.ones((SAMPLES, LENGTH), bool)
    mask[:, -3:] = False
    return {"token_ids": tokens(LENGTH, VOCABULARY), "padding_mask": mask}


@keras.saving.register_keras_serializable(package="foreign")
class Words(keras.layers.Layer):
    """Splits strings into words, for BERT.


    KerasHub's own tokenizers need TensorFlow Text inside a `tf.data` pipeline.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Strings are TensorFlow tensors on every backend.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self._lookup = keras.layers.TextVectorization(
            vocabulary=_WORDS, output_sequence_length=LENGTH
        )

    def build(self, input_shape=None):
        """Nothing to do: the words are known."""

    def call(self, inputs):
        ids = self._lookup(inputs)
        return {
            "token_ids": ids,
            "segment_ids": tf.zeros_like(ids),
            "padding_mask": tf.not_equal(ids, 0),
        }


def bert():
    """Builds a classifier of strings with a preprocessor."""
    models = _models()
    task = models.BertTextClassifier(
        models.BertBackbone(**_SIZES, num_heads=2, max_sequence_length=LENGTH),
        CLASSES,
        preprocessor=Words(),
    )
    return Network(task, _sentences(), _labels(), _LOGITS)


def _classifier(kind, **kwargs):
    models = _models()
    task = getattr(models, f"{kind}TextClassifier")(
        getattr(models, f"{kind}Backbone")(
            **_SIZES, max_sequence_length=LENGTH, **kwargs
        ),
        CLASSES,
        preprocessor=None,
    )
    x = _padded()
    if kind == "FNet":
        x = {
            "token_ids": x["token_ids"],
            "segment_ids": np.zeros_like(x["token_ids"]),
        }
    return Network(task, x, _labels(), _LOGITS)


def distil_bert():
    return _classifier("DistilBert", num_heads=2)


def deberta_v3():
    return _classifier("DebertaV3", num_heads=2, bucket_size=8)


def f_net():
    return _classifier("FNet")


def _causal(kind, **kwargs):
    models = _models()
    task = getattr(models, f"{kind}CausalLM")(
        getattr(models, f"{kind}Backbone")(**_SIZES, **kwargs),
        preprocessor=None,
    )
    # The target is the next word.
    x = _padded()
    return Network(task, x, np.roll(x["token_ids"], -1, axis=1), _LOGITS)


def gpt2():
    return _causal("GPT2", num_heads=2, max_sequence_length=LENGTH)


def gemma():
    return _causal(
        "Gemma", num_query_heads=2, num_key_value_heads=1, head_dim=16
    )


def llama():
    return _causal("Llama", num_query_heads=2, num_key_value_heads=1)


def t5():
    """Builds the backbone, which has no task in KerasHub."""
    backbone = _models().T5Backbone(**_SIZES, num_heads=2)
    ids, mask = _padded().values()
    x = {
        "encoder_token_ids": ids,
        "encoder_padding_mask": mask,
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    }
    y = np.zeros((SAMPLES, LENGTH, _SIZES["hidden_dim"]), "float32")
    both = {"encoder_sequence_output": y, "decoder_sequence_output": y}
    return Network(backbone, x, both, "mse")


def bart():
    models = _models()
    task = models.BartSeq2SeqLM(
        models.BartBackbone(**_SIZES, num_heads=2, max_sequence_length=LENGTH),
        preprocessor=None,
    )
    ids, mask = _padded().values()
    x = {
        "encoder_token_ids": ids,
        "encoder_padding_mask": mask,
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    }
    return Network(task, x, np.roll(ids, -1, axis=1), _LOGITS)


def whisper():
    """Builds the backbone, for spectrograms of 32 frames."""
    backbone = _models().WhisperBackbone(
        **_SIZES,
        num_heads=2,
        num_mels=20,
        max_encoder_sequence_length=32,
        max_decoder_sequence_length=LENGTH,
    )
    ids, mask = _padded().values()
    rng = np.random.default_rng(0)
    x = {
        "encoder_features": rng.normal(size=(SAMPLES, 32, 20)).astype(
            "float32"
        ),
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    }
    width = _SIZES["hidden_dim"]
    y = {
        "encoder_sequence_output": np.zeros((SAMPLES, 16, width), "float32"),
        "decoder_sequence_output": np.zeros(
            (SAMPLES, LENGTH, width), "float32"
        ),
    }
    return Network(backbone, x, y, "mse")


def vit():
    models = _models()
    task = models.ViTImageClassifier(
        models.ViTBackbone(
            image_shape=(SIDE, SIDE, 3),
            patch_size=16,
            num_layers=2,
            num_heads=2,
            hidden_dim=32,
            mlp_dim=64,
        ),
        CLASSES,
        preprocessor=None,
    )
    return Network(task, *images(SIDE), _LOGITS)


def _resnet():
    return _models().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(SIDE, SIDE, 3),
    )


def resnet():
    """Builds a classifier whose preprocessor scales images."""
    import keras_hub

    models = _models()
    scaling = keras_hub.layers.ResNetImageConverter(
        image_size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0
    )
    task = models.ResNetImageClassifier(
        _resnet(),
        CLASSES,
        preprocessor=models.ResNetImageClassifierPreprocessor(scaling),
    )
    x, y = images(SIDE)
    return Network(task, 255 * x, y, _LOGITS)


def _segmented(task, logits):
    x, _ = images(SIDE)
    shape = (SAMPLES, SIDE, SIDE, 1)
    y = np.random.default_rng(1).integers(0, CLASSES, shape)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    return Network(task, x, y, loss)


def segformer():
    models = _models()
    encoder = models.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(SIDE, SIDE, 3),
        hidden_dims=[16, 24, 32, 48],
    )
    task = models.SegFormerImageSegmenter(
        models.SegFormerBackbone(image_encoder=encoder, projection_filters=16),
        CLASSES,
        preprocessor=None,
    )
    return _segmented(task, logits=True)


def deeplab_v3():
    models = _models()
    task = models.DeepLabV3ImageSegmenter(
        models.DeepLabV3Backbone(
            image_encoder=_resnet(),
            projection_filters=16,
            low_level_feature_key="P2",
            spatial_pyramid_pooling_key="P5",
            upsampling_size=8,
            dilation_rates=[6, 12, 18],
        ),
        CLASSES,
        activation="softmax",
        preprocessor=None,
    )
    return _segmented(task, logits=False)


def retinanet():
    """Builds a detector with the default losses of its `compile`."""
    models = _models()
    task = models.RetinaNetObjectDetector(
        models.RetinaNetBackbone(
            image_encoder=_resnet(),
            min_level=3,
            max_level=4,
            use_p5=False,
            image_shape=(SIDE, SIDE, 3),
        ),
        CLASSES,
        bounding_box_format="xyxy",
        preprocessor=None,
    )
    x, labels = images(SIDE)
    boxes = np.tile([[[8.0, 8.0, 40.0, 48.0]]], (SAMPLES, 1, 1))
    y = {"boxes": boxes.astype("float32"), "labels": labels[:, None]}
    return Network(task, x, y, "own")


NETWORKS = {
    "BertTextClassifier": bert,
    "DistilBertTextClassifier": distil_bert,
    "DebertaV3TextClassifier": deberta_v3,
    "FNetTextClassifier": f_net,
    "GPT2CausalLM": gpt2,
    "GemmaCausalLM": gemma,
    "LlamaCausalLM": llama,
    "T5Backbone": t5,
    "BartSeq2SeqLM": bart,
    "WhisperBackbone": whisper,
    "ViTImageClassifier": vit,
    "ResNetImageClassifier": resnet,
    "SegFormerImageSegmenter": segformer,
    "DeepLabV3ImageSegmenter": deeplab_v3,
    "RetinaNetObjectDetector": retinanet,
}
