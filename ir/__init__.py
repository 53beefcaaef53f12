"""The graph: ``from planish.ir import Model, read_model, write_model, Builder``.

Importing this costs numpy; ``onnx`` loads when a model is read or written, ``onnx_graphsurgeon`` when asked.
"""

from .builder import Builder
from .clone import clone_graph, clone_model
from .constants import (
    ArrayConstant,
    BytesConstant,
    Constant,
    FileConstant,
    LazyConstant,
    SeededConstant,
    SparseConstant,
    SplatConstant,
    same_data,
)
from .dims import Dim, Shape, SymDim, symbol
from .dtypes import DType
from .errors import (
    BackendError,
    ExternalDataError,
    ModelError,
    NotEquivalentError,
    PassError,
    PipelineError,
    PlanishError,
    ReadError,
    TextError,
    UsageError,
    VerifyError,
)
from .graph import Attr, AttrRef, EmptyAttr, Function, Graph, Model, Node, Port, Value
from .limits import Limits
from .onnx_reader import read_model
from .onnx_writer import model_to_bytes, model_to_proto, write_model
from .surgeon import from_surgeon, to_surgeon
from .types import Layout, MapType, OptionalType, Quant, SequenceType, TensorType, Type

__all__ = [
    "ArrayConstant",
    "Attr",
    "AttrRef",
    "BackendError",
    "Builder",
    "BytesConstant",
    "Constant",
    "DType",
    "Dim",
    "EmptyAttr",
    "ExternalDataError",
    "FileConstant",
    "Function",
    "Graph",
    "Layout",
    "LazyConstant",
    "Limits",
    "MapType",
    "Model",
    "ModelError",
    "Node",
    "NotEquivalentError",
    "OptionalType",
    "PassError",
    "PipelineError",
    "PlanishError",
    "Port",
    "Quant",
    "ReadError",
    "SeededConstant",
    "SequenceType",
    "Shape",
    "SparseConstant",
    "SplatConstant",
    "SymDim",
    "TensorType",
    "TextError",
    "Type",
    "UsageError",
    "Value",
    "VerifyError",
    "clone_graph",
    "clone_model",
    "from_surgeon",
    "model_to_bytes",
    "model_to_proto",
    "read_model",
    "same_data",
    "symbol",
    "to_surgeon",
    "write_model",
]
