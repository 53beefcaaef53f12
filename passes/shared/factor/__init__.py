"""Low-rank factorization of weights: the mathematics on numpy arrays, and what of a graph may be factorized."""
