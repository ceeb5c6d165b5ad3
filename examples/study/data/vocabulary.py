"""Converts text to numbered pieces of words, and back."""

import io
from collections.abc import Iterable

import numpy as np
import sentencepiece

PAD, UNKNOWN, BEGIN, END = range(4)


class Vocabulary:
    """The likeliest pieces of words in a language, learned from sentences.

    This is a SentencePiece unigram model: encoding and decoding returns the
    same text, except for characters that the sentences do not have.

    Args:
        sentences: Text in one language.
        size: Maximum vocabulary size, including padding, unknown, begin and
            end; with little text there are fewer pieces.
    """

    def __init__(self, sentences: Iterable[str], size: int):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            minloglevel=2,
        )
        self._pieces = sentencepiece.SentencePieceProcessor(
            model_proto=model.getvalue()
        )

    def __len__(self):
        return self._pieces.get_piece_size()

    def encode(self, sentences: Iterable[str], length: int) -> np.ndarray:
        """Returns numbers (sentences, length): pieces, `END`, then `PAD`.

        Longer sentences are truncated.
        """
        found = [
            [*pieces, END][:length]
            for pieces in self._pieces.encode(list(sentences))
        ]
        # 16 bits, since some data sets are large.
        numbers = np.full((len(found), length), PAD, "uint16")
        for row, pieces in zip(numbers, found, strict=True):
            row[: len(pieces)] = pieces
        return numbers

    def decode(self, numbers: np.ndarray) -> list[str]:
        """Returns the text of each row, up to its first `END`."""
        ends = np.cumsum(numbers == END, axis=1) > 0
        return self._pieces.decode(
            [row[~end].tolist() for row, end in zip(numbers, ends, strict=True)]
        )
