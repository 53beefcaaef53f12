"""Images of text lines and pages, rendered with Pillow's own font, with what they say and where.

Images are uint8 [H, W, 3] in BGR order, as OCR pipelines read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LINES = (
    "Beautiful is better than ugly",
    "Invoice No. 2048-117",
    "Total amount: $1,384.50",
    "Departure 18:45 Gate B12",
    "The quick brown fox",
    "jumps over the lazy dog",
    "Please keep this receipt",
    "Order shipped on 14 March 2023",
    "Conference Room 304",
    "Temperature 21.5 degrees",
    "Serial number XK-93817",
    "Opening hours 9:00 to 17:30",
    "Simple is better than complex",
    "WARNING: HIGH VOLTAGE",
    "Contact support@example.com",
    "Platform 7 to Edinburgh",
    "Net weight 250 g",
    "Errors should never pass silently",
    "Read the manual before use",
    "Water boils at 100 degrees",
    "Flat rate shipping 4.99",
    "Chapter 12: The Return",
    "Best before 08/2027",
    "Made in Portugal",
    "Sparse is better than dense",
    "Customer copy",
    "Speed limit 50",
    "Library closes at midnight",
    "Account balance 73,210.08",
    "Now is better than never",
    "Fragile, handle with care",
    "Emergency exit only",
)
"""What the rendered lines say: prose, numbers, prices, dates, capitals."""


@dataclass(frozen=True)
class Page:
    """A page of text lines."""

    image: np.ndarray
    """uint8 [H, W, 3], BGR."""
    boxes: np.ndarray
    """float [N, 4]: the ink of each line as (x0, y0, x1, y1) in pixels."""


def render_line(text: str, rng: np.random.Generator) -> np.ndarray:
    """One line of ``text`` of a random size on a plain, slightly noisy ground, cropped with a small margin."""
    font = _font(int(rng.integers(20, 48)))
    x0, y0, x1, y1 = font.getbbox(text)
    margin = int(rng.integers(4, 9))
    paper, ink = _colours(rng)
    image, draw = _canvas(round(x1 - x0) + 2 * margin, round(y1 - y0) + 2 * margin, paper)
    draw.text((margin - x0, margin - y0), text, font=font, fill=ink)
    return _photographed(image, rng)


def render_page(width: int, height: int, rng: np.random.Generator) -> Page:
    """A page with one text line in each of several rows, never overlapping; sizes and places are random."""
    paper, ink = _colours(rng)
    image, draw = _canvas(width, height, paper)
    boxes = []
    top = int(rng.integers(16, 40))
    while True:
        font = _font(int(rng.integers(12, 36)))
        text = str(rng.choice(LINES))
        x0, y0, x1, y1 = font.getbbox(text)
        if top + (y1 - y0) > height - 16:
            break
        left = int(rng.integers(12, max(13, width - 12 - round(x1 - x0))))
        draw.text((left - x0, top - y0), text, font=font, fill=ink)
        boxes.append((left, top, left + x1 - x0, top + y1 - y0))
        top += round(y1 - y0) + int(rng.integers(16, 48))
    return Page(_photographed(image, rng), np.array(boxes, dtype=float))


def _font(size: int) -> Any:
    """Pillow's built-in outline font (Aileron Regular) at ``size`` pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _canvas(width: int, height: int, paper: tuple[int, ...]) -> tuple[Any, Any]:
    """A new plain RGB image and the pen that draws on it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), paper)
    return image, ImageDraw.Draw(image)


def _colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paper and ink, RGB: light on dark one time in five."""
    light = tuple(int(c) for c in rng.integers(170, 256, 3))
    dark = tuple(int(c) for c in rng.integers(0, 110, 3))
    return (dark, light) if rng.random() < 0.2 else (light, dark)


def _photographed(image: Any, rng: np.random.Generator) -> np.ndarray:
    """The image as BGR, with uneven light and sensor noise."""
    rgb = np.asarray(image, dtype=np.float32)
    light = np.linspace(1.0, rng.uniform(0.7, 1.0), rgb.shape[1], dtype=np.float32)[None, :, None]
    noise = rng.normal(0.0, rng.uniform(0.0, 14.0), rgb.shape)
    return np.clip(np.rint(rgb * light + noise), 0, 255).astype(np.uint8)[:, :, ::-1]
