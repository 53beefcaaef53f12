"""Runtimes that planish lowers to; each folder is one backend and none imports another."""
