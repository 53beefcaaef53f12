"""Orders of nodes that need the least memory at their peak, with bounds."""
