"""What must hold whatever bytes or text come in: an error of ours, or a model that goes on working."""

from __future__ import annotations

from planish.ir.errors import PlanishError, VerifyError
from planish.ir.graph import Model
from planish.ir.limits import Limits
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.text.parser import parse_model
from planish.ir.text.printer import print_model
from planish.ir.verify import verify

LIMITS = Limits(file_bytes=1 << 20, nodes=20_000)
"""So small that a fuzzer's input cannot be slow by its size alone."""


def check_model(data: bytes) -> str:
    """Reads ``data`` as a model file. What reads must print, parse, and read again once it is written.

    Returns ``refused`` or ``read``. Any exception that gets out is a fault of planish.
    """
    try:
        model = read_model(data, limits=LIMITS)
    except PlanishError:
        return "refused"
    _goes_on(model)
    return "read"


def check_text(data: bytes) -> str:
    """Parses ``data`` as textual form; as :func:`check_model`."""
    try:
        model = parse_model(data.decode(errors="surrogateescape"))
    except PlanishError:
        return "refused"
    _goes_on(model)
    return "read"


CHECKS = {"model": check_model, "text": check_text}


def _goes_on(model: Model) -> None:
    """Sound models survive text and file; for others the verifier must say what is wrong."""
    text = print_model(model, resources="inline")
    try:
        verify(model)
    except VerifyError:
        return
    # Parsing infers what reading left open, so that the second text may say more than the first; the third may not.
    once = print_model(parse_model(text, check=False), resources="inline")
    twice = print_model(parse_model(once, check=False), resources="inline")
    assert once == twice, f"printed, parsed and printed again it is another text:\n{once}\n---\n{twice}"
    try:
        raw = model_to_bytes(model)
    except PlanishError:  # what ONNX has no words for: layouts, quantization as part of the type
        return
    read_model(raw, infer=False)
