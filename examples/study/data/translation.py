"""English sentences to translate into German."""

import typing

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

from .bleu import Bleu
from .task import Task
from .token_accuracy import TokenAccuracy
from .vocabulary import BEGIN
from .vocabulary import PAD
from .vocabulary import Vocabulary

_LEARNED_FROM = 1_000_000  # Sentences to learn a vocabulary from.


class _Corpus(typing.NamedTuple):
    name: str  # In TensorFlow Datasets.
    length: int  # Pieces per sentence.
    vocabulary: int  # Pieces per language.


_CORPORA = {
    "multi30k": _Corpus("multi30k", length=32, vocabulary=2000),
    "wmt16": _Corpus("wmt16_translate/de-en", length=128, vocabulary=32000),
}


def load(name, data_dir, batch_size, subset, augment, seed):
    """Loads a task for `data.load`: from English to German.

    Examples are `(inputs, labels, weights)` with `inputs["source"]` and
    `inputs["target"]`, the labels shifted one to the right: a network predicts
    the next piece. `weights` exclude padding from the loss, which is a mean
    over pieces. Nothing is augmented.
    """
    corpus = _CORPORA[name]
    length = corpus.length
    of_subset = "" if subset is None else f"[:{subset}]"
    train, validation, test = (
        _sentences(corpus.name, split, data_dir)
        for split in (f"train{of_subset}", "validation", "test")
    )
    source, target = (
        Vocabulary(sentences[:_LEARNED_FROM], corpus.vocabulary)
        for sentences in train
    )

    def batches(sentences, shuffle=False):
        rows = [
            vocabulary.encode(texts, length)
            for vocabulary, texts in zip(
                (source, target), sentences, strict=True
            )
        ]
        dataset = tf.data.Dataset.from_tensor_slices(tuple(rows))
        if shuffle:
            dataset = dataset.shuffle(len(rows[0]), seed=seed)
        return dataset.batch(batch_size).map(_example).prefetch(1)

    return Task(
        train=batches(train, shuffle=True),
        validation=batches(validation),
        test=batches(test),
        network={
            "source_vocabulary": len(source),
            "target_vocabulary": len(target),
            "length": length,
        },
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        metrics=lambda: [TokenAccuracy(name="accuracy")],
        measure="BLEU",
        score=Bleu(source, target, validation[1] + test[1], length),
    )


def _sentences(name, split, data_dir):
    """Returns two lists of texts, English and German."""
    dataset = tfds.load(name, split=split, data_dir=data_dir)
    english, german = [], []
    for batch in tfds.as_numpy(dataset.batch(1000)):
        english += [text.decode() for text in batch["en"]]
        german += [text.decode() for text in batch["de"]]
    return english, german


def _example(source, labels):
    source, labels = (tf.cast(x, tf.int32) for x in (source, labels))
    begin = tf.fill([tf.shape(labels)[0], 1], BEGIN)
    target = tf.concat([begin, labels[:, :-1]], axis=1)
    weights = tf.cast(labels != PAD, tf.float32)
    return {"source": source, "target": target}, labels, weights
