"""Passes that decide when things happen and where they lie."""
