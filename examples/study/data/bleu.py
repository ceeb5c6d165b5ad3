"""The BLEU score of translations."""

import typing

import numpy as np
import sacrebleu

from .greedy import Greedy
from .vocabulary import Vocabulary


class Translation(typing.NamedTuple):
    """A sentence, its translation by a model, and a human translation."""

    source: str
    translation: str
    reference: str


class Bleu:
    """BLEU of a model's greedy translations, by sacrebleu, in percent.

    Args:
        source: Vocabulary of the sentences to translate.
        target: Vocabulary of the translations.
        references: Text of references. If a reference is missing, it is
            decoded from its pieces, without truncated or unknown pieces.
        length: Number of pieces in a row of labels.
    """

    def __init__(
        self,
        source: Vocabulary,
        target: Vocabulary,
        references: list[str],
        length: int,
    ):
        self._source = source
        self._target = target
        rows = target.encode(references, length)
        self._whole = {
            row.tobytes(): text
            for row, text in zip(rows, references, strict=True)
        }

    def __call__(self, model, batches) -> float:
        found = self.translate(model, batches)
        return sacrebleu.corpus_bleu(
            [each.translation for each in found],
            [[each.reference for each in found]],
            force=True,  # Does not warn about periods at the end.
        ).score

    def translate(self, model, batches) -> list[Translation]:
        """Translates the sources of batches `(inputs, labels, weights)`."""
        found = []
        greedy = Greedy(model)
        for inputs, labels, _ in batches.as_numpy_iterator():
            pieces = greedy.predict_on_batch(inputs["source"])
            found += zip(
                self._source.decode(inputs["source"]),
                self._target.decode(np.asarray(pieces)),
                self._texts(labels),
                strict=True,
            )
        return [Translation(*each) for each in found]

    def _texts(self, labels):
        labels = labels.astype("uint16")
        return [
            self._whole.get(row.tobytes(), decoded)
            for row, decoded in zip(
                labels, self._target.decode(labels), strict=True
            )
        ]
