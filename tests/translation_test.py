"""Translation: vocabularies, networks, and BLEU."""

import math
import sys

import keras
import numpy as np
import pytest
import sacrebleu
import tensorflow as tf
import tensorflow_datasets as tfds
from from_examples import EXAMPLES
from from_examples import STUDY
from from_examples import importable

import keras_bimp
from keras_bimp._src.masking import find_prunable

pytestmark = pytest.mark.slow

ENGLISH = (
    "A man rides a horse.",
    "Two dogs play in the snow.",
    "The woman reads a book in the park.",
    "A child eats an apple.",
    "Three men work on a house.",
    "A dog runs through the water.",
)
GERMAN = (
    "Ein Mann reitet ein Pferd.",
    "Zwei Hunde spielen im Schnee.",
    "Die Frau liest ein Buch im Park.",
    "Ein Kind isst einen Apfel.",
    "Drei Männer arbeiten an einem Haus.",
    "Ein Hund läuft durch das Wasser.",
)


@pytest.fixture(scope="module")
def data():
    with importable(STUDY):
        import data

        yield data


@pytest.fixture(scope="module")
def networks():
    with importable(STUDY):
        import networks

        yield networks


@pytest.fixture
def script():
    with importable(EXAMPLES):
        import translation

        yield translation


def few_sentences(name, split, data_dir):
    """Returns 60 pairs of the training split, and each other pair once."""
    assert name == "multi30k"
    pairs = list(zip(ENGLISH, GERMAN, strict=True))
    if split.startswith("train"):
        pairs *= 10
        if "[" in split:
            pairs = pairs[: int(split[len("train[:") : -1])]
    english, german = zip(*pairs, strict=True)
    return tf.data.Dataset.from_tensor_slices(
        {"en": list(english), "de": list(german)}
    )


@pytest.fixture
def load(data, monkeypatch):
    monkeypatch.setattr(tfds, "load", few_sentences)
    return lambda **options: data.load("multi30k", batch_size=8, **options)


# Text and numbers.


@pytest.fixture(scope="module")
def vocabulary(data):
    return sys.modules["data.vocabulary"].Vocabulary(GERMAN, 60)


def test_text_becomes_numbers_and_the_same_text_again(vocabulary):
    assert 4 + len(set("".join(GERMAN))) <= len(vocabulary) <= 60
    rows = vocabulary.encode(GERMAN, 50)
    assert rows.shape == (len(GERMAN), 50)
    assert rows.max() < len(vocabulary)
    for row in rows:
        (end,) = np.flatnonzero(row == 3)
        assert (row[:end] > 3).all()
        assert (row[end + 1 :] == 0).all()
    assert vocabulary.decode(rows) == list(GERMAN)


def test_what_is_too_long_is_cut_and_has_no_end(vocabulary):
    (whole,) = vocabulary.encode(GERMAN[:1], 50)
    (row,) = vocabulary.encode(GERMAN[:1], 5)
    assert row.tolist() == whole[:5].tolist()
    assert 3 not in row
    assert GERMAN[0].startswith(vocabulary.decode(row[None])[0])


def test_nothing_is_read_after_the_end(vocabulary):
    rows = vocabulary.encode(GERMAN, 50)
    rows[rows == 0] = rows[0, 0]
    assert vocabulary.decode(rows) == list(GERMAN)


def test_a_character_that_was_not_learned_is_unknown(vocabulary):
    (row,) = vocabulary.encode(["Ein Ж"], 10)
    assert (row == 1).sum() == 1


# Examples.


def test_labels_are_what_follows_and_weights_leave_padding_out(load):
    task = load(subset=30)
    assert task.measure == "BLEU"
    assert int(task.train.cardinality()) == 4
    assert len(list(task.train)) == 4
    for split in (task.train, task.validation, task.test):
        for inputs, labels, weights in split.as_numpy_iterator():
            source, target = inputs["source"], inputs["target"]
            assert source.shape == labels.shape == (len(labels), 32)
            assert (target[:, 0] == 2).all()
            np.testing.assert_array_equal(target[:, 1:], labels[:, :-1])
            np.testing.assert_array_equal(weights, labels != 0)
            assert labels.max() < task.network["target_vocabulary"]
            assert source.max() < task.network["source_vocabulary"]


def test_a_subset_is_of_the_training_sentences_alone(load):
    task = load(subset=2)
    texts = task.score.translate(lambda inputs: None, task.train.take(0))
    assert texts == []
    examples = [list(x.unbatch()) for x in (task.train, task.validation)]
    assert [len(x) for x in examples] == [2, 6]
    # "B" is unknown: it is only in other sentences.
    (_, labels, _) = examples[1][2]
    assert 1 in labels.numpy()


def test_training_examples_come_in_another_order_each_epoch(load):
    def order(task):
        return [x["source"].numpy().tolist() for x, *_ in task.train]

    task, again, other = load(seed=0), load(seed=0), load(seed=1)
    first = order(task)
    assert first == order(again) != order(other)
    assert first != order(task)


def test_loss_and_accuracy_are_means_over_pieces(load):
    task = load()
    _, labels, weights = next(task.validation.as_numpy_iterator())
    vocabulary = task.network["target_vocabulary"]
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*labels.shape, vocabulary))
    # Right for padding, which must not count, and for some other pieces.
    chosen = labels * ((labels == 0) | (np.arange(32) % 2 == 0))
    logits += 9 * np.eye(vocabulary)[chosen]
    (accuracy,) = task.metrics()
    accuracy.update_state(labels, logits)
    real = labels != 0
    hits = logits.argmax(-1) == labels
    assert hits[~real].all()
    assert float(accuracy.result()) == pytest.approx(hits[real].mean())
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log, labels[..., None], -1)[..., 0]
    assert float(task.loss(labels, logits, weights)) == pytest.approx(
        losses[real].mean(), rel=1e-5
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets")
def test_wmt16_by_mock_data(data):
    with tfds.testing.mock_data(num_examples=6):
        task = data.load("wmt16", batch_size=4, subset=6)
    assert task.network["length"] == 128
    inputs, labels, _ = next(task.train.as_numpy_iterator())
    assert inputs["source"].shape == labels.shape == (4, 128)
    (found, *_) = task.score.translate(
        oracle(task.test, task.network["target_vocabulary"]), task.test
    )
    # Random text may have consecutive spaces, or spaces at its ends.
    assert found.translation == " ".join(found.reference.split())


# BLEU.


class Table(keras.layers.Layer):
    """A model that looks up the translation of each source."""

    def __init__(self, sources, targets, vocabulary):
        super().__init__()
        self.sources, self.targets = sources, targets
        self.vocabulary = vocabulary

    def call(self, inputs):
        same = keras.ops.all(
            keras.ops.equal(inputs["source"][:, None], self.sources[None]), -1
        )
        rows = keras.ops.argmax(keras.ops.cast(same, "int32"), axis=-1)
        pieces = keras.ops.take(self.targets, rows, axis=0)
        return keras.ops.one_hot(pieces, self.vocabulary)


def oracle(batches, vocabulary):
    sources, labels = [], []
    for inputs, targets, _ in batches.as_numpy_iterator():
        sources.append(inputs["source"])
        labels.append(targets)
    return Table(np.concatenate(sources), np.concatenate(labels), vocabulary)


def test_references_score_100_and_nonsense_0(load):
    task = load()
    vocabulary = task.network["target_vocabulary"]
    perfect = oracle(task.test, vocabulary)
    assert task.score(perfect, task.test) == pytest.approx(100)
    found = task.score.translate(perfect, task.test)
    assert [x.source for x in found] == list(ENGLISH)
    assert [x.reference for x in found] == list(GERMAN)
    assert [x.translation for x in found] == list(GERMAN)
    nonsense = Table(
        perfect.sources, np.roll(perfect.sources, 7) % vocabulary, vocabulary
    )
    assert task.score(nonsense, task.test) < 3


def test_it_is_sacrebleus_figure(load):
    task = load()
    vocabulary = sys.modules["data.vocabulary"].Vocabulary
    said = [
        "ein Mann reitet ein Pferd.",  # Case counts,
        "Zwei Hunde spielen im Schnee .",  # A space before a period does not.
        "Die Frau liest im Park.",
        "Ein Kind",
        "Drei Männer arbeiten an einem Haus. Haus.",
        "Ein Hund durch das Wasser läuft.",
    ]
    # One vocabulary for translations and references.
    target = vocabulary([*GERMAN, *said], 80)
    bleu = type(task.score)(vocabulary(ENGLISH, 80), target, GERMAN, 32)
    batches = few_sentences("multi30k", "test", None).batch(4)
    english = vocabulary(ENGLISH, 80).encode(ENGLISH, 32).astype("int32")
    labels = target.encode(GERMAN, 32).astype("int32")
    batches = tf.data.Dataset.from_tensor_slices(
        ({"source": english}, labels, labels != 0)
    ).batch(4)
    model = Table(english, target.encode(said, 32), len(target))
    expected = sacrebleu.corpus_bleu(said, [GERMAN]).score
    assert bleu(model, batches) == pytest.approx(expected)
    # One sentence by hand: 5 of 6, 4 of 5, 3 of 4 and 2 of 3 n-grams of 1, 2, 3
    # and 4 pieces are in the reference.
    by_hand = 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert bleu(model, batches.unbatch().take(1).batch(1)) == pytest.approx(
        by_hand
    )
    spaced = batches.unbatch().skip(1).take(1).batch(1)
    assert bleu(model, spaced) == pytest.approx(100)


def test_a_reference_that_is_too_long_is_whole(data):
    module = sys.modules["data.vocabulary"]
    words = module.Vocabulary(GERMAN, 60)
    bleu = sys.modules["data.bleu"].Bleu(words, words, GERMAN, 6)
    rows = words.encode(GERMAN, 6).astype("int32")
    batches = tf.data.Dataset.from_tensor_slices(
        ({"source": rows}, rows, rows != 0)
    ).batch(6)
    found = bleu.translate(Table(rows, rows, len(words)), batches)
    assert [x.reference for x in found] == list(GERMAN)
    assert all(len(x.translation) < len(x.reference) for x in found)


@pytest.mark.every_backend
def test_greedy_takes_the_likeliest_piece_by_piece(data, networks):
    model = networks.transformer(11, 9, 6, width=8, heads=2)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:  # So that no bias outweighs the inputs.
            variable.assign(rng.standard_normal(variable.shape))
    source = rng.integers(4, 11, (20, 6)).astype("int32")
    source[::2, 4:] = 0
    greedy = sys.modules["data.greedy"].Greedy(model)
    found = np.asarray(greedy.predict(source, batch_size=8, verbose=0))
    target = np.zeros((20, 7), "int32")
    target[:, 0] = 2
    for i in range(6):
        logits = model.predict(
            {"source": source, "target": target[:, :6]}, verbose=0
        )
        ended = (target[:, : i + 1] == 3).any(1)
        target[:, i + 1] = np.where(ended, 0, logits[:, i].argmax(-1))
    np.testing.assert_array_equal(found, target[:, 1:])
    assert len(np.unique(found, axis=0)) > 3
    assert (found == 3).any()


# Networks.

SMALL_T5 = {"layers": 2, "heads": 2, "width": 8, "hidden": 12}
SMALL = {
    "transformer": {"width": 8, "heads": 2, "blocks": 2, "dropout": 0.1},
    "t5": SMALL_T5,
}


@pytest.fixture(params=SMALL)
def make(request, networks):
    name = request.param
    keras.utils.set_random_seed(0)
    network = getattr(networks, name)
    return lambda **options: network(9, 7, 6, **SMALL[name], **options)


def example():
    rng = np.random.default_rng(0)
    source = rng.integers(4, 9, (5, 6)).astype("int32")
    source[:, 4:] = 0
    return {
        "source": source,
        "target": rng.integers(2, 7, (5, 6)).astype("int32"),
    }


def predict(model, inputs):
    return np.asarray(model.predict(inputs, verbose=0))


def test_a_piece_sees_what_comes_before_it_and_the_source(make):
    model = make()
    inputs = example()
    before = predict(model, inputs)
    for position in range(6):
        target = inputs["target"].copy()
        target[:, position] = 2 + (target[:, position] - 1) % 5
        changed = predict(model, {**inputs, "target": target}) != before
        assert not changed[:, :position].any()
        assert changed[:, position:].any((0, 2)).all()
    source = inputs["source"].copy()
    source[:, 3] = 4 + (source[:, 3] - 3) % 5
    changed = predict(model, {**inputs, "source": source}) != before
    assert changed.any(2).all()


def test_padding_of_the_source_is_not_looked_at(make):
    model = make()
    before = predict(model, example())
    for layer in model._flatten_layers():
        if layer.name.startswith(("embedding", "token_embedding")):
            table = np.array(layer.embeddings)
            table[0] += 5
            layer.embeddings.assign(table)
    after = predict(model, example())
    if model.name.startswith("functional") and after.shape[-1] == 7:
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    else:  # The output shares the table, except for the logit of padding.
        np.testing.assert_allclose(
            after[..., 1:], before[..., 1:], rtol=1e-5, atol=1e-5
        )


def test_parameters_of_the_transformer(networks):
    width, length, source, target = 16, 10, 50, 30
    model = networks.transformer(source, target, length, width=width, blocks=2)
    attention = 4 * width * width
    hidden = 2 * width * 4 * width
    kernels = find_prunable(model).kernels
    prunable = 2 * (attention + hidden) + 2 * (2 * attention + hidden)
    assert sum(k.size for k in kernels) == prunable + width * target
    tables = width * (source + target)
    biases = (4 * 6 + 4 * 5) * width + target
    norms = 2 * width * (2 * 2 + 1 + 2 * 3 + 1)
    assert model.count_params() == (
        prunable + width * target + tables + biases + norms
    )
    macs = keras_bimp.metrics.count_macs(model)
    assert macs.unknown == ()


def test_parameters_of_t5_small(networks):
    model = networks.t5()
    assert model.count_params() == 60_506_624
    kernels = find_prunable(model).kernels
    assert sum(kernel.size for kernel in kernels) == 44_040_192


def test_weight_decay_is_of_the_kernels(make):
    decay = 0.02
    model = make(weight_decay=decay)
    kernels = [k.variable for k in find_prunable(model).kernels]
    expected = sum(float(np.sum(np.array(k) ** 2)) for k in kernels)
    model(example())
    assert float(sum(model.losses)) == pytest.approx(decay / 2 * expected)


def test_weights_saved_and_loaded_compute_the_same(make, tmp_path):
    model, other = make(), make()
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(
        predict(model, example()), predict(other, example())
    )


def test_a_transformer_is_loaded_without_its_code(networks, tmp_path):
    model = networks.transformer(9, 7, 6, **SMALL["transformer"])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        predict(model, example()), predict(loaded, example())
    )


@pytest.mark.every_backend
@pytest.mark.parametrize("name", SMALL)
def test_they_are_wrapped_trained_pruned_and_stripped(
    name, data, networks, monkeypatch
):
    monkeypatch.setattr(tfds, "load", few_sentences)
    task = data.load("multi30k", batch_size=8, subset=20)
    keras.utils.set_random_seed(0)
    model = keras_bimp.wrap(
        getattr(networks, name)(**task.network, **SMALL[name])
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        task.loss,
        metrics=task.metrics(),
    )
    logs = model.fit(
        task.train,
        epochs=3,
        validation_data=task.validation,
        callbacks=keras_bimp.callbacks(0.8, dense_epochs=2, verbose=0),
        shuffle=False,
        verbose=0,
    ).history
    assert logs["loss"][1] < logs["loss"][0]
    assert {"accuracy", "val_accuracy"} <= logs.keys()
    pruned = keras_bimp.strip(model)
    kernels = [k.variable for k in find_prunable(pruned).kernels]
    size = sum(math.prod(k.shape) for k in kernels)
    zeros = sum(int((np.array(k) == 0).sum()) for k in kernels)
    assert zeros == round(0.8 * size)
    found = task.score(pruned, task.test)
    assert 0 <= found < 100


# The script.


def test_the_example_prints_scores_and_translations(
    script, monkeypatch, capsys
):
    monkeypatch.setattr(tfds, "load", few_sentences)
    script.FLAGS(
        [
            "translation",
            "--epochs=2",
            "--dense_epochs=1",
            "--width=32",
            "--sentences=2",
        ]
    )
    script.main([])
    lines = capsys.readouterr().out.splitlines()
    assert any("dense" in line and "0.0%" in line for line in lines)
    assert any("sparse" in line and "90.0%" in line for line in lines)
    for english, german in zip(ENGLISH[:2], GERMAN[:2], strict=True):
        place = lines.index(f"English    {english}")
        assert lines[place + 1] == f"reference  {german}"
        assert lines[place + 2].startswith("dense ")
        assert lines[place + 3].startswith("sparse ")
