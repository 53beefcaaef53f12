"""Placing buffers with lifetimes in one arena: dynamic storage allocation, with bounds. Knows no graph."""
