"""Metrics against values worked out by hand or by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from planish.models.metrics import (
    box_iou,
    character_accuracy,
    cosine_similarity,
    ctc_greedy_decode,
    edit_distance,
    f1_score,
    matched_boxes,
    rank_agreement,
    ranks,
    spearman,
)


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("ab", "ba", 2)]
)
def test_edit_distance(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == distance


def test_character_accuracy() -> None:
    assert character_accuracy("helo", "hello") == pytest.approx(0.8)
    assert character_accuracy("much too long a text", "x") == 0
    assert character_accuracy("", "") == 1


def test_ctc_merges_repeats_and_keeps_doubles_across_blanks() -> None:
    path = [1, 1, 0, 2, 2, 0, 2, 3, 0, 0]
    assert ctc_greedy_decode(np.eye(4)[path], ["", "a", "l", "o"]) == "allo"
    assert ctc_greedy_decode(np.eye(4)[[0, 0]], ["", "a", "l", "o"]) == ""


def test_ranks_average_ties() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_spearman() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    assert spearman(x, np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman(x, np.ones(5)) == 0


def test_rank_agreement_ignores_rotation_and_sees_noise() -> None:
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(20, 8))
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert rank_agreement(embedding @ rotation, embedding) == pytest.approx(1)
    assert rank_agreement(rng.normal(size=(20, 8)), embedding) < 0.5


def test_cosine_similarity() -> None:
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 2.0], [3.0, 3.0]])
    assert cosine_similarity(a, b) == pytest.approx([0, 1])


def test_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]])
    b = np.array([[0, 0, 10, 5], [0, 0, 10, 10], [50, 50, 60, 60]])
    assert box_iou(a, b).tolist() == [[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert matched_boxes(a, b) == 1
    assert matched_boxes(b[:2], b[:2]) == 2
    assert matched_boxes(np.empty((0, 4)), b) == 0


def test_f1() -> None:
    assert f1_score(1, 2, 3) == pytest.approx(0.4)
    assert f1_score(0, 0, 0) == 1
    assert f1_score(0, 3, 0) == 0
