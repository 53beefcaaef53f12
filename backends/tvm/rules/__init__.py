"""What operators compute, as expressions over the elements of their operands."""

from . import elementwise, integers, linear, movement, reduce, resize, sampling, signal, windows  # noqa: F401  # pyright: ignore[reportUnusedImport]  (they register)
