"""PP-OCRv4: text detection, text recognition and text orientation, from ``rapidocr_onnxruntime``.

Preprocessing repeats that package's (version 1.4.4, folders ``ch_ppocr_det``, ``ch_ppocr_rec``,
``ch_ppocr_cls`` and ``config.yaml``) without OpenCV: BGR, bilinear, ``(pixel / 255 - 0.5) / 0.5``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from .bilinear import resize_bilinear
from .db_boxes import boxes_from_map
from .metrics import character_accuracy, ctc_greedy_decode, f1_score, matched_boxes
from .packages import package_file
from .samples_text import LINES, Page, render_line, render_page
from .zoo_model import Runner, Sample, ZooModel, random_for

_FLAGS = "--no-deps"
_REC_HEIGHT, _REC_WIDTH = 48, 320
_CLS_HEIGHT, _CLS_WIDTH = 48, 192
_DET_LEAST_SIDE = 736
_DET_SIZES = ((640, 480), (480, 640), (736, 736), (800, 600))
"""Page sizes (width, height); the first is used where all samples share one shape."""


def _locate(file: str) -> Callable[[], Path]:
    install = f"pip install {_FLAGS} rapidocr_onnxruntime"
    return lambda: package_file("rapidocr_onnxruntime", f"models/{file}", install=install)


# ---- preprocessing


def _normalized(image: np.ndarray) -> np.ndarray:
    """Pixels [H, W, 3] of uint8 as float32 [3, H, W] in [-1, 1]."""
    return (image.astype(np.float32).transpose(2, 0, 1) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def _padded_line(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resized to ``height`` keeping the aspect but never over ``width``, zeros to the right; [1, 3, height, width]."""
    line_width = min(width, math.ceil(height * image.shape[1] / image.shape[0]))
    result = np.zeros((1, 3, height, width), dtype=np.float32)
    result[0, :, :, :line_width] = _normalized(resize_bilinear(image, line_width, height))
    return result


def rec_inputs(images: Sequence[np.ndarray]) -> np.ndarray:
    """A batch for the recognizer: [N, 3, 48, W], W from the widest image, at least 320."""
    widest = max(_REC_WIDTH / _REC_HEIGHT, *(image.shape[1] / image.shape[0] for image in images))
    width = int(_REC_HEIGHT * widest)
    return np.concatenate([_padded_line(image, _REC_HEIGHT, width) for image in images])


def cls_input(image: np.ndarray) -> np.ndarray:
    """The orientation classifier's input: [1, 3, 48, 192]."""
    return _padded_line(image, _CLS_HEIGHT, _CLS_WIDTH)


def det_input(image: np.ndarray) -> np.ndarray:
    """The detector's input: the short side at least 736, both sides multiples of 32; [1, 3, H, W]."""
    height, width = image.shape[:2]
    ratio = max(1.0, _DET_LEAST_SIDE / min(height, width))
    new_height, new_width = (round(int(side * ratio) / 32) * 32 for side in (height, width))
    return _normalized(resize_bilinear(image, new_width, new_height))[None]


# ---- labelled data


def _lines(count: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """``count`` rendered lines with their text, in an order that depends on ``seed``."""
    rng = random_for("ocr-lines", seed)
    order = [int(i) for i in rng.permutation(len(LINES))]
    texts: list[str] = [LINES[order[i % len(LINES)]] for i in range(count)]
    return [(text, render_line(text, rng)) for text in texts]


def _pages(count: int, seed: int, uniform: bool) -> list[Page]:
    rng = random_for("ocr-pages", seed)
    sizes = _DET_SIZES[:1] if uniform else _DET_SIZES
    return [render_page(*sizes[i % len(sizes)], rng) for i in range(count)]


def _oriented(count: int, seed: int) -> list[tuple[int, np.ndarray]]:
    """Lines, every other one turned by 180 degrees: (0 upright or 1 turned, image)."""
    lines = [image for _, image in _lines(count, seed)]
    return [(i % 2, image[::-1, ::-1] if i % 2 else image) for i, image in enumerate(lines)]


def _rec_samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    images = [image for _, image in _lines(count, seed)]
    if uniform:
        return [{"x": row[None]} for row in rec_inputs(images)] if images else []
    return [{"x": rec_inputs([image])} for image in images]


def _cls_samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    return [{"x": cls_input(image)} for _, image in _oriented(count, seed)]


def _det_samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    return [{"x": det_input(page.image)} for page in _pages(count, seed, uniform)]


# ---- metrics


@cache
def rec_alphabet() -> tuple[str, ...]:
    """What each of the recognizer's 6,625 classes stands for: blank, the characters of its metadata, space."""
    import onnx

    model = onnx.load(str(PPOCR_REC.path()), load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    return ("", *entries["character"].splitlines(), " ")


def _rec_accuracy(runner: Runner, count: int) -> float:
    """Mean character accuracy (1 - character error rate) of greedy CTC decoding."""
    scores = [
        character_accuracy(ctc_greedy_decode(runner({"x": rec_inputs([image])})[0][0], rec_alphabet()), text)
        for text, image in _lines(count, 0)
    ]
    return float(np.mean(scores))


def _cls_accuracy(runner: Runner, count: int) -> float:
    """Share of lines whose orientation is told right."""
    hits = [int(runner({"x": cls_input(image)})[0][0].argmax()) == turned for turned, image in _oriented(count, 0)]
    return float(np.mean(hits))


def _det_f1(runner: Runner, count: int) -> float:
    """F1 of the text boxes over all pages, a hit being IoU >= 0.5 (the ICDAR 2015 protocol)."""
    hits = found_count = expected_count = 0
    for page in _pages(count, 0, False):
        tensor = det_input(page.image)
        found = boxes_from_map(runner({"x": tensor})[0][0, 0])
        scale = np.array([page.image.shape[1] / tensor.shape[3], page.image.shape[0] / tensor.shape[2]])
        hits += matched_boxes(found * np.tile(scale, 2), page.boxes)
        found_count, expected_count = found_count + len(found), expected_count + len(page.boxes)
    return f1_score(hits, found_count, expected_count)


def _entry(
    name: str,
    file: str,
    description: str,
    sampler: Callable[[int, int, bool], list[Sample]],
    metric: Callable[[Runner, int], float],
) -> ZooModel:
    return ZooModel(
        name=name,
        package="rapidocr_onnxruntime",
        module="rapidocr_onnxruntime",
        family="vision",
        trained=True,
        description=description,
        locate=_locate(file),
        sampler=sampler,
        metric=metric,
        pip_flags=_FLAGS,
        extras=(("pillow", "PIL"),),
    )


PPOCR_DET = _entry(
    "ppocr_det",
    "ch_PP-OCRv4_det_infer.onnx",
    "PP-OCRv4 text detector (DBNet on PP-LCNetV3); metric: F1 of text boxes at IoU 0.5",
    _det_samples,
    _det_f1,
)
PPOCR_REC = _entry(
    "ppocr_rec",
    "ch_PP-OCRv4_rec_infer.onnx",
    "PP-OCRv4 text recognizer (SVTR-LCNet, CTC, 6,625 classes); metric: character accuracy",
    _rec_samples,
    _rec_accuracy,
)
PPOCR_CLS = _entry(
    "ppocr_cls",
    "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "PP-OCR text orientation (MobileNetV3 small, 0 or 180 degrees); metric: accuracy",
    _cls_samples,
    _cls_accuracy,
)
ENTRIES = (PPOCR_DET, PPOCR_REC, PPOCR_CLS)
