"""Bilinear image resizing with OpenCV's convention, so that inputs equal those of the original pipelines."""

from __future__ import annotations

import numpy as np


def resize_bilinear(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resizes an image [H, W, C] of uint8 to [height, width, C], like ``cv2.resize(..., INTER_LINEAR)``.

    Pixel centres lie at half-integers and borders repeat; there is no antialiasing when shrinking.
    Differs from OpenCV by at most 1 (it rounds its weights to 11 bits).
    """
    top, bottom, down = _taps(image.shape[0], height)
    left, right, across = _taps(image.shape[1], width)
    source = image.astype(np.float32)
    across = across[None, :, None]
    rows = source[:, left] * (1 - across) + source[:, right] * across
    down = down[:, None, None]
    result = rows[top] * (1 - down) + rows[bottom] * down
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


def _taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source positions of every output position, and the weight of the second."""
    position = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    low = np.floor(position).astype(int)
    weight = (position - low).astype(np.float32)
    return low.clip(0, size - 1), (low + 1).clip(0, size - 1), weight
