"""Regions of a graph that can run a few rows at a time."""
