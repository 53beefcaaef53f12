"""The command line."""

from __future__ import annotations

import importlib.metadata
import sys


def main() -> None:
    """Run the command; so far it knows nothing but its version."""
    sys.stdout.write(f"planish {importlib.metadata.version('planish')}\n")
