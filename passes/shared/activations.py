"""Activations that runtimes compute together with the convolution in front of them."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Node, Value
from ..rewrite.rewriter import Rewriter

CONTRIB = frozenset({"com.microsoft::QuickGelu", "com.microsoft::Gelu"})
"""Elementwise operators of one operand that are zero at zero, from ONNX Runtime's own domain."""
FUSED = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Clip"})


def qualified(node: Node) -> str:
    """The operator's name with its domain, as :meth:`Rewriter.op` takes it."""
    return f"{node.domain}::{node.op}" if node.domain else node.op


def activation_behind(value: Value) -> Node | None:
    """The elementwise activation that is the only user of ``value``, in the same graph."""
    user = value.sole_user
    if (
        user is None
        or user.domain
        or user.op not in FUSED
        or user.graph is not value.owner
        or user.inputs[0] is not value
    ):
        return None
    return user if all(v is None or v.data is not None for v in user.inputs[1:]) else None


def emit_activation(r: Rewriter, act: Node, x: Value) -> Value:
    """The same activation of ``x``."""
    attrs: dict[str, Any] = dict(act.attrs)
    return r.op(act.op, x, *act.inputs[1:], **attrs)
