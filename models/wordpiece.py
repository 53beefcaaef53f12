"""BERT's uncased WordPiece tokenizer (Devlin et al., 2019; rules of the reference ``tokenization.py``)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

_LONGEST_WORD = 100
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Code points that BERT takes for words of their own."""


class WordPiece:
    """Maps text to ids: ``[CLS] pieces [SEP]``, padded with ``[PAD]``."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {token: i for i, token in enumerate(vocabulary)}
        self._cls, self._sep, self._unknown, self._pad = (
            self._ids[token] for token in ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
        )

    @classmethod
    def from_file(cls, path: Path) -> WordPiece:
        """Reads a ``vocab.txt``: one token a line, its id the line number from 0."""
        return cls(path.read_text(encoding="utf-8").rstrip("\n").split("\n"))

    def encode(self, text: str, longest: int = 256) -> list[int]:
        """Ids of one text, cut to ``longest`` including [CLS] and [SEP]."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._cls, *pieces[: longest - 2], self._sep]

    def batch(self, texts: Sequence[str], *, longest: int = 256, width: int = 0) -> dict[str, np.ndarray]:
        """``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 [N, L].

        L is the longest of the encoded texts, or ``width`` if that is more.
        """
        rows = [self.encode(text, longest) for text in texts]
        shape = (len(rows), max(width, *map(len, rows)))
        ids, mask = np.full(shape, self._pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, dtype=np.int64)}

    def _pieces(self, word: str) -> list[int]:
        """Longest match first; a word that has no split becomes [UNK]."""
        if len(word) > _LONGEST_WORD:
            return [self._unknown]
        pieces: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), None)
            if end is None:
                return [self._unknown]
            pieces.append(self._ids[prefix + word[start:end]])
            start = end
        return pieces


def _words(text: str) -> Iterator[str]:
    """Lower case without accents, split at white space and around every punctuation mark and CJK character."""
    cleaned = "".join(" " if character.isspace() else character for character in text if not _is_dropped(character))
    bare = (c for c in unicodedata.normalize("NFD", cleaned.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {character} " if _stands_alone(character) else character for character in bare)
    yield from spaced.split()


def _is_dropped(character: str) -> bool:
    if character in "\t\n\r":
        return False
    return character in "\0\ufffd" or unicodedata.category(character).startswith("C")


def _stands_alone(character: str) -> bool:
    code = ord(character)
    if code < 128:
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P") or any(low <= code <= high for low, high in _CJK)
