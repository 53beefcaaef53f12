"""``python -m planish``."""

from .cli import main

main()
