"""TVM's modules without types: the border behind which nothing of it is known to the type checker."""

from __future__ import annotations

from typing import Any

import tvm as _tvm
import tvm.relax as _relax
import tvm.te as _te
import tvm.tirx as _tirx
import tvm_ffi as _tvm_ffi

tvm: Any = _tvm
te: Any = _te
tirx: Any = _tirx
relax: Any = _relax
tvm_ffi: Any = _tvm_ffi
