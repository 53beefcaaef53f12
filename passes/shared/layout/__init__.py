"""Data layout: which order of axes each value is stored in, chosen by minimum cut or integer program."""
