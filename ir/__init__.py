"""The graph: ``from planish.ir import Model, read_model, write_model, Builder``.

Names load when they are first used; ``onnx`` loads when a model is read or written.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builder import Builder as Builder
    from .clone import clone_graph as clone_graph
    from .clone import clone_model as clone_model
    from .constants import ArrayConstant as ArrayConstant
    from .constants import BytesConstant as BytesConstant
    from .constants import Constant as Constant
    from .constants import FileConstant as FileConstant
    from .constants import LazyConstant as LazyConstant
    from .constants import RowsConstant as RowsConstant
    from .constants import SeededConstant as SeededConstant
    from .constants import SparseConstant as SparseConstant
    from .constants import SplatConstant as SplatConstant
    from .constants import same_data as same_data
    from .dims import Dim as Dim
    from .dims import Shape as Shape
    from .dims import SymDim as SymDim
    from .dims import symbol as symbol
    from .dtypes import DType as DType
    from .errors import BackendError as BackendError
    from .errors import ExternalDataError as ExternalDataError
    from .errors import ModelError as ModelError
    from .errors import NotEquivalentError as NotEquivalentError
    from .errors import PassError as PassError
    from .errors import PipelineError as PipelineError
    from .errors import PlanishError as PlanishError
    from .errors import ReadError as ReadError
    from .errors import TextError as TextError
    from .errors import UsageError as UsageError
    from .errors import VerifyError as VerifyError
    from .graph import Attr as Attr
    from .graph import AttrRef as AttrRef
    from .graph import EmptyAttr as EmptyAttr
    from .graph import Function as Function
    from .graph import Graph as Graph
    from .graph import Model as Model
    from .graph import Node as Node
    from .graph import Port as Port
    from .graph import Value as Value
    from .limits import Limits as Limits
    from .onnx_reader import read_model as read_model
    from .onnx_writer import model_to_bytes as model_to_bytes
    from .onnx_writer import model_to_proto as model_to_proto
    from .onnx_writer import write_model as write_model
    from .repetition import RepeatedConstant as RepeatedConstant
    from .surgeon import from_surgeon as from_surgeon
    from .surgeon import to_surgeon as to_surgeon
    from .types import Layout as Layout
    from .types import MapType as MapType
    from .types import OptionalType as OptionalType
    from .types import Quant as Quant
    from .types import SequenceType as SequenceType
    from .types import TensorType as TensorType
    from .types import Type as Type

_NAMES = {
    "builder": "Builder",
    "clone": "clone_graph clone_model",
    "constants": (
        "ArrayConstant BytesConstant Constant FileConstant LazyConstant RowsConstant SeededConstant SparseConstant "
        "SplatConstant same_data"
    ),
    "dims": "Dim Shape SymDim symbol",
    "dtypes": "DType",
    "errors": (
        "BackendError ExternalDataError ModelError NotEquivalentError PassError PipelineError PlanishError ReadError "
        "TextError UsageError VerifyError"
    ),
    "graph": "Attr AttrRef EmptyAttr Function Graph Model Node Port Value",
    "limits": "Limits",
    "onnx_reader": "read_model",
    "onnx_writer": "model_to_bytes model_to_proto write_model",
    "repetition": "RepeatedConstant",
    "surgeon": "from_surgeon to_surgeon",
    "types": "Layout MapType OptionalType Quant SequenceType TensorType Type",
}
"""Public names by module."""
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

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
    "RepeatedConstant",
    "RowsConstant",
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


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
