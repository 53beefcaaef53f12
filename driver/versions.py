"""What a result was made with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    found: dict[str, str] = {}
    for name in ("planish", "onnx", "onnxruntime", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "checkout" if name == "planish" else "missing"
    return found
