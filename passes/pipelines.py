"""Named pipelines. A name expands to its text wherever a pass may stand."""

from __future__ import annotations

_CLEAN_RULES = (
    "(canonicalize-operands,fold-constants,fold-conditions,fold-failing-branches,remove-identity,simplify-shapes,"
    "merge-reshapes,merge-transposes,merge-slices,merge-casts,merge-concats,merge-pads)"
)
_CONV_RULES = (
    "turn-softmax,hoist-slice,hoist-pooling,expand-square,fuse-gated-residual,fold-gate,fold-scale-shift,"
    "merge-deconvolutions"
)
_VIEWS = (
    "merge-constants,eliminate-common-subexpressions,"
    "(move-views,merge-views,merge-reshapes,merge-transposes),fuse-affine-chain,"
    "fuse-contrib-gelu{quick=true},sink-constants"
)

PIPELINES: dict[str, str] = {
    "none": "",
    "clean": (
        f"inline-functions,({_CLEAN_RULES},hoist-invariants,merge-constants,eliminate-common-subexpressions,"
        "eliminate-dead-code)*"
    ),
    # Recognizers first: a constant folded into weights is no longer part of a spelled-out activation.
    "fuse": ("(fuse-clip,fuse-hardsigmoid,fuse-gelu,fuse-layernorm),(fold-pad,fold-batchnorm,fold-scale-shift)"),
    # Convolutions as kernels want them: parts and channels first, then the number of axes, what is left of scales last.
    "fuse-conv": (
        f"(lower-fourier,split-convolution,{_CONV_RULES}),pad-channels,widen-convolution,(split-concat,raise-conv1d),{_VIEWS}"
    ),
    # Lookups before activations are fused; the opset before what it brings.
    "fuse-blocks": (
        "(fold-onehot,fold-gather,fold-index-grid),"
        "(lower-einsum,fuse-softmax,hoist-bias,remove-void-mask),"
        "raise-opset{to=23,when=[attention,rms-norm]},raise-opset{to=17,when=[layer-norm]},"
        "(fuse-layernorm,fuse-rmsnorm,fuse-moment-norm,fuse-gelu,fuse-contrib-gelu,remove-nan-guard,merge-views,"
        "split-packed),"
        "fuse-rotary,fuse-attention,fold-attention-scale,clean"
    ),
    "fuse-tokens": "flatten-tokens,(sink-activation,merge-views),fold-residual,avoid-skip-norm",
    "fuse-transformer": "fuse-blocks,fuse-tokens",
    # Transposes of one axis each, as these passes leave them, stay so: nothing that joins views may follow.
    "layout": "cancel-transposes,assign-layout,insert-transposes,(merge-reshapes,remove-identity)",
    # Passes that suit one runtime or processor ask the target, and decline where it is another one.
    "lossless": "clean,fuse,fuse-transformer,fuse-conv,clean",
    "default": "lossless,layout",
    # The fewest nodes, not the least time: whole-block operators, which ONNX Runtime computes slower on processors; no
    # pass that splits; batch normalizations folded before equal convolutions become one; no care for empty tensors.
    "smallest": (
        "(fold-constants,remove-identity),fold-batchnorm,clean,simplify-shapes{empty-tensors=false},fuse,fuse-blocks,"
        f"pack-attention,(fuse-skip-norm,fuse-contrib-gelu{{bias=true}}),merge-matmuls,fuse-tokens,({_CONV_RULES}),"
        f"{_VIEWS},cancel-transposes{{steps=false}},"
        "simplify-shapes{empty-tensors=false},clean"
    ),
    # What draws on an error budget; nothing without one.
    "lossy": "store-float16",
}

QUANTIZE: dict[str, str] = {
    "int8": "raise-opset{to=13,when=lossy},assign-quant,refit-factors,correct-bias,insert-qdq",
    "dynamic": "quantize-dynamic",
    "weights": "quantize-weights",
    "int8-weights": "quantize-weights{bits=8}",
    "int4-weights": "quantize-weights{bits=4}",
    "residual-weights": "factorize-residual,quantize-weights",
    "float16-weights": "store-float16",
}
"""Lossy groups by the name that users ask for them; they go behind the lossless pipeline."""

FACTORIZE = (
    "raise-opset{to=13,when=lossy},fold-adapters,find-low-rank,merge-factors{growth=1.5},factorize-parallel,"
    "factorize-matmul,factorize-conv,fold-permutations"
)
"""Low rank; in front of ways to quantize, which then store the factors."""

GROUPS = ("layout", "fuse-conv", "fuse-transformer", "fuse")
"""Groups of fusions that can be left out as a whole where measurement says that they cost time."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "any": (
        "none",
        "clean",
        "clean,fuse,clean",
        "clean,fuse,fuse-conv,clean",
        "clean,fuse,fuse-transformer,clean",
        "clean,fuse,fuse-transformer,fuse-conv,clean",
        "clean,fuse,fuse-blocks,merge-matmuls,fuse-tokens,fuse-conv,clean",
    ),
}
"""Pipelines that the tuner compares, for every target and by architecture. Names that do not exist are left out."""
