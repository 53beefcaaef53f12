"""Results of long computations on constants, kept while a pipeline is run again and again with other choices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Memo:
    """Results by key. A key says everything that a result depends on, so that it never goes stale."""

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        """What was used longest ago goes where results take more than ``limit_bytes`` together."""
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._found: OrderedDict[object, tuple[Any, int]] = OrderedDict()

    def get(self, key: object, compute: Callable[[], T], size_bytes: Callable[[T], int]) -> T:
        """The result of ``compute``, called only where it is not known."""
        if key in self._found:
            self._found.move_to_end(key)
            return self._found[key][0]
        result = compute()
        size = size_bytes(result)
        if size <= self.limit_bytes:
            self._found[key] = (result, size)
            self.bytes += size
            while self.bytes > self.limit_bytes:
                self.bytes -= self._found.popitem(last=False)[1][1]
        return result
