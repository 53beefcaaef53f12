"""Passes that store or compute in integers."""
