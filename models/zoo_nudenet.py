"""NudeNet's 320n: a YOLOv8n detector with 18 classes, from ``nudenet`` (AGPL-3.0; used, not redistributed).

Samples and metric use its face classes on a portrait of known contents.
"""

from __future__ import annotations

import numpy as np

from .bilinear import resize_bilinear
from .metrics import box_iou, f1_score
from .packages import package_file
from .samples_photos import PORTRAIT_PACKAGE, portrait, render_scene
from .zoo_model import Runner, Sample, ZooModel, random_for

_SIDE = 320
_FACE_FEMALE = 1
_LEAST_SCORE, _NMS_IOU, _HIT_IOU = 0.25, 0.45, 0.5
_FLAGS = "--no-deps"


def detector_input(image: np.ndarray) -> np.ndarray:
    """RGB uint8 [H, W, 3] padded at the right and bottom to a square, resized, in [0, 1]: [1, 3, 320, 320].

    As ``nudenet.nudenet._read_image`` of version 3.4.2 does with an image file; like there (it swaps the
    channels of what OpenCV reads twice) the channels come out as BGR.
    """
    side = max(image.shape[:2])
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[: image.shape[0], : image.shape[1]] = image[:, :, ::-1]
    resized = resize_bilinear(square, _SIDE, _SIDE).astype(np.float32)
    return resized.transpose(2, 0, 1)[None] / np.float32(255)


def boxes_of_class(output: np.ndarray, label: int) -> np.ndarray:
    """Boxes [N, 4] (x0, y0, x1, y1, pixels of the input) of one class, best first, after suppression.

    ``output`` is YOLOv8's [4 + classes, anchors]: centre, size, then a score for each class.
    """
    score = output[4:]
    kept = np.nonzero((score.argmax(0) == label) & (score.max(0) >= _LEAST_SCORE))[0]
    kept = kept[np.argsort(-score[label, kept], kind="stable")]
    centre, size = output[:2, kept].T, output[2:4, kept].T
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    result: list[np.ndarray] = []
    for box in boxes:
        if not result or box_iou(box, np.array(result)).max() <= _NMS_IOU:
            result.append(box)
    return np.array(result).reshape(-1, 4)


def _samples(count: int, seed: int, uniform: bool) -> list[Sample]:
    """Portraits, and a scene without people for every fourth."""
    rng = random_for("nudenet", seed)
    images = [render_scene(_SIDE, rng) if i % 4 == 3 else portrait(rng).image for i in range(count)]
    return [{"images": detector_input(image)} for image in images]


def _face_f1(runner: Runner, count: int) -> float:
    """F1 of the class "female face" at IoU 0.5 over portraits with one face each and scenes with none."""
    rng = random_for("nudenet", 0)
    hits = found_count = expected_count = 0
    for i in range(count):
        if i % 4 == 3:
            found = boxes_of_class(runner({"images": detector_input(render_scene(_SIDE, rng))})[0][0], _FACE_FEMALE)
        else:
            photo = portrait(rng)
            found = boxes_of_class(runner({"images": detector_input(photo.image)})[0][0], _FACE_FEMALE)
            face = photo.face * (_SIDE / max(photo.image.shape[:2]))
            hits += int(len(found) > 0 and box_iou(found, face).max() >= _HIT_IOU)
            expected_count += 1
        found_count += len(found)
    return f1_score(hits, found_count, expected_count)


NUDENET = ZooModel(
    name="nudenet",
    package="nudenet",
    module="nudenet",
    family="vision",
    trained=True,
    description="NudeNet 320n detector (YOLOv8n, 18 classes); metric: F1 of faces at IoU 0.5",
    locate=lambda: package_file("nudenet", "320n.onnx", install=f"pip install {_FLAGS} nudenet"),
    sampler=_samples,
    metric=_face_f1,
    pip_flags=_FLAGS,
    extras=(PORTRAIT_PACKAGE, ("pillow", "PIL")),
)
ENTRIES = (NUDENET,)
