"""Vision transformers (Dosovitskiy et al., ICLR 2021), as timm builds and PyTorch exports them."""

from __future__ import annotations

from ..ir.builder import DEFAULT_OPSET, Builder
from ..ir.dtypes import DType
from ..ir.errors import UsageError
from ..ir.graph import Model, Value
from .layers import attend, extent, gelu, layer_norm, linear, merge_heads, shape_vector, view
from .weights import SeededWeights, Weights


def vit(
    *,
    size: int = 224,
    patch: int = 16,
    hidden: int = 192,
    layers: int = 12,
    heads: int = 3,
    classes: int = 1000,
    batch: int | str = "N",
    seed: int = 0,
    opset: int = DEFAULT_OPSET,
) -> Model:
    """``input`` [batch, 3, size, size] to ``output`` [batch, classes], float32 logits.

    The defaults are ViT-Ti/16; Ti, S, B and L have ``hidden`` 192, 384, 768, 1024 and ``heads`` 3, 6, 12, 16.
    Raises UsageError where ``patch`` does not divide ``size`` or ``heads`` does not divide ``hidden``.
    """
    if size % patch or hidden % heads:
        raise UsageError(f"{patch} must divide {size}, and {heads} heads {hidden} channels", where="models")
    b, w = Builder(opset=opset), SeededWeights(seed)
    image = b.input("input", DType.F32, (batch, 3, size, size))
    x = _embedded(b, w, image, size // patch, patch, hidden)
    for i in range(layers):
        x = _block(b, w, x, f"blocks.{i}", hidden, heads)
    first = b.Gather(layer_norm(b, w, x, "norm", hidden, 1e-6), b.const(0), axis=1)
    weight = b.const(w.kernel("head.weight", (classes, hidden)), "head.weight")
    b.output(b.Gemm(first, weight, b.const(w.vector("head.bias", classes), "head.bias"), transB=1), "output")
    return b.model()


def _embedded(b: Builder, w: Weights, image: Value, grid: int, patch: int, hidden: int) -> Value:
    """Patches to tokens, behind a class token, plus positions: [batch, 1 + grid * grid, hidden]."""
    batch = extent(b, image, 0)
    kernel = b.const(w.kernel("patch_embed.proj.weight", (hidden, 3, patch, patch)), "patch_embed.proj.weight")
    bias = b.const(w.vector("patch_embed.proj.bias", hidden), "patch_embed.proj.bias")
    x = b.Conv(image, kernel, bias, kernel_shape=(patch, patch), strides=(patch, patch))
    x = b.Transpose(view(b, x, [batch, hidden, grid * grid]), perm=(0, 2, 1))
    token = b.const(w.kernel("cls_token", (1, 1, hidden), gain=hidden**0.5 * 0.5), "cls_token")
    tokens = b.Expand(token, shape_vector(b, [batch, 1, hidden]))
    positions = w.kernel("pos_embed", (1, 1 + grid * grid, hidden), gain=(hidden * (1 + grid * grid)) ** 0.5 * 0.5)
    return b.Add(b.Concat(tokens, x, axis=1), b.const(positions, "pos_embed"))


def _block(b: Builder, w: Weights, x: Value, name: str, hidden: int, heads: int) -> Value:
    """Attention, then a perceptron, each on normalized input and added to it."""
    size = hidden // heads
    y = layer_norm(b, w, x, f"{name}.norm1", hidden, 1e-6)
    joint = linear(b, w, y, f"{name}.attn.qkv", hidden, 3 * hidden)
    parts = view(b, joint, [extent(b, y, 0), extent(b, y, 1), 3, heads, size])
    stacked = b.Transpose(parts, perm=(2, 0, 3, 1, 4))
    q, k, v = (b.Gather(stacked, b.const(i), axis=0) for i in range(3))
    mixed = attend(b, q, b.Transpose(k, perm=(0, 1, 3, 2)), v, size)
    x = b.Add(x, linear(b, w, merge_heads(b, mixed, hidden), f"{name}.attn.proj", hidden, hidden, gain=0.5))
    y = layer_norm(b, w, x, f"{name}.norm2", hidden, 1e-6)
    y = gelu(b, linear(b, w, y, f"{name}.mlp.fc1", hidden, 4 * hidden))
    return b.Add(x, linear(b, w, y, f"{name}.mlp.fc2", 4 * hidden, hidden, gain=0.5))
