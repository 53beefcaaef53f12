"""From a graph to a Relax module: kernels from groups, and the program that calls them."""
