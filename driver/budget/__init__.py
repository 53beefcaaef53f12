"""One error budget: what passes that may change numbers cost together, and which of it is worth it."""

from .holdout import held_places
from .ledger import Entry, Ledger
from .limits import Budget, load_metric
from .paying import Paying, Stopwatch
from .purse import Purse
from .stages import is_lossy

__all__ = ["Budget", "Entry", "Ledger", "Paying", "Purse", "Stopwatch", "held_places", "is_lossy", "load_metric"]
