"""Passes that factorize weights, and those that merge factors."""
