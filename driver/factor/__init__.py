"""Low rank: what was chosen for each layer."""

from .picture import plot_ranks
from .ranks import PREFIX, Rank, ranks_of, ranks_table

__all__ = ["PREFIX", "Rank", "plot_ranks", "ranks_of", "ranks_table"]
