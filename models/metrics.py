"""Task metrics in plain numpy: text, ranks, boxes. Every score is in [0, 1] and higher is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Levenshtein distance: the least number of insertions, deletions and substitutions from ``a`` to ``b``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def character_accuracy(found: str, expected: str) -> float:
    """``1 - distance / length of expected``, not below 0 (one minus the character error rate)."""
    if not expected:
        return float(not found)
    return max(0.0, 1.0 - edit_distance(found, expected) / len(expected))


def ctc_greedy_decode(scores: np.ndarray, alphabet: Sequence[str]) -> str:
    """Best path of connectionist temporal classification for ``scores`` of shape [T, C]; class 0 is blank.

    Repeats are merged, then blanks dropped; class ``c`` stands for ``alphabet[c]``. Source: Graves et
    al., "Connectionist Temporal Classification", ICML 2006, section 3.2.
    """
    best = np.asarray(scores).argmax(axis=-1)
    kept = best[np.concatenate([[True], best[1:] != best[:-1]]) & (best != 0)]
    return "".join(alphabet[int(c)] for c in kept)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 of a 1-D array, ties averaged."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation in [-1, 1]; 0 where one side is constant."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else 0.0


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise cosine of two arrays of shape [N, D]; shape [N]."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.einsum("nd,nd->n", a, b) / np.maximum(norms, 1e-12)


def rank_agreement(found: np.ndarray, reference: np.ndarray) -> float:
    """How alike two embeddings [N, D] of the same N items order all pairs of items by similarity.

    Spearman's correlation of the two lists of N(N-1)/2 cosines: 1 means that every nearest-neighbour
    query has the same answer. The embeddings may differ in D.
    """
    upper = np.triu_indices(len(found), k=1)
    cosines: list[np.ndarray] = []
    for embedding in (found, reference):
        unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
        cosines.append((unit @ unit.T)[upper])
    return max(0.0, spearman(cosines[0], cosines[1]))


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes [N, 4] and [M, 4] as (x0, y0, x1, y1); shape [N, M]."""
    a, b = np.asarray(a, float).reshape(-1, 4), np.asarray(b, float).reshape(-1, 4)
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.prod(np.clip(corner, 0, None), axis=-1)
    area_a, area_b = (np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (a, b))
    return common / np.maximum(area_a[:, None] + area_b[None, :] - common, 1e-12)


def matched_boxes(found: np.ndarray, expected: np.ndarray, least_iou: float = 0.5) -> int:
    """Number of one-to-one matches with IoU of at least ``least_iou``, taken greedily from the best."""
    iou = box_iou(found, expected)
    matches = 0
    while iou.size and iou.max() >= least_iou:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        iou[i, :] = iou[:, j] = -1
        matches += 1
    return matches


def f1_score(true_positives: int, found: int, expected: int) -> float:
    """Harmonic mean of precision and recall from counts; 1 where nothing was expected and nothing found."""
    return 2 * true_positives / (found + expected) if found + expected else 1.0
