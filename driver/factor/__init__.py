"""Low rank: what was chosen for each layer."""

from .ranks import PREFIX, Rank, ranks_of, ranks_table

__all__ = ["PREFIX", "Rank", "ranks_of", "ranks_table"]
