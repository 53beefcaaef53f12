"""Whether two models compute the same: structure, runs, tolerances, noise."""
