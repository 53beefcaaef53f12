"""Axis-aligned text boxes from the probability map of a differentiable-binarization detector.

The postprocessing of DBNet (Liao et al., "Real-time Scene Text Detection with Differentiable
Binarization", AAAI 2020) with PP-OCR's constants, for horizontal text and without OpenCV.
"""

from __future__ import annotations

import numpy as np

_THRESHOLD, _BOX_THRESHOLD, _UNCLIP_RATIO, _LEAST_SIDE = 0.3, 0.5, 1.6, 3


def boxes_from_map(probability: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] as (x0, y0, x1, y1) in pixels of the map ``probability`` [H, W].

    Components above 0.3, widened by one pixel, are boxed; a box stays when its mean probability is at
    least 0.5. It then grows by ``area * 1.6 / perimeter`` on each side, since the network is trained to
    mark shrunken text, and is cut at the border.
    """
    mask = probability > _THRESHOLD
    mask[:, 1:] |= mask[:, :-1].copy()
    mask[1:] |= mask[:-1].copy()
    boxes = [_grown(box) for box in component_boxes(mask) if _is_text(box, probability)]
    height, width = probability.shape
    return np.clip(np.array(boxes, dtype=float).reshape(-1, 4), 0, (width, height, width, height))


def component_boxes(mask: np.ndarray) -> np.ndarray:
    """Bounding boxes [N, 4] (x1 and y1 exclusive) of the 8-connected components of a boolean [H, W] mask.

    Horizontal runs are found for the whole image at once and joined with the row above by union-find.
    """
    edges: np.ndarray = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = (np.asarray(axis, dtype=int) for axis in np.nonzero(edges == 1))
    ends = np.asarray(np.nonzero(edges == -1)[1], dtype=int)
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first_of_row: list[int] = [0, *np.cumsum(np.bincount(rows, minlength=mask.shape[0])).tolist()]
    for row in range(1, mask.shape[0]):
        above, above_end = first_of_row[row - 1], first_of_row[row]
        for i in range(first_of_row[row], first_of_row[row + 1]):
            while above < above_end and ends[above] < starts[i]:
                above += 1
            j = above
            while j < above_end and starts[j] <= ends[i]:
                parent[root(i)] = root(j)
                j += 1

    roots = np.array([root(i) for i in range(len(rows))], dtype=int)
    found = [np.nonzero(roots == r)[0] for r in np.unique(roots)]
    return np.array(
        [(starts[runs].min(), rows[runs].min(), ends[runs].max(), rows[runs].max() + 1) for runs in found], dtype=int
    ).reshape(-1, 4)


def _is_text(box: np.ndarray, probability: np.ndarray) -> bool:
    x0, y0, x1, y1 = box
    return min(x1 - x0, y1 - y0) >= _LEAST_SIDE and probability[y0:y1, x0:x1].mean() >= _BOX_THRESHOLD


def _grown(box: np.ndarray) -> tuple[float, ...]:
    x0, y0, x1, y1 = (float(edge) for edge in box)
    width, height = x1 - x0, y1 - y0
    by = width * height * _UNCLIP_RATIO / (2 * (width + height))
    return x0 - by, y0 - by, x1 + by, y1 + by
