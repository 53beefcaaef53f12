"""Passes that compute or store in fewer bits."""
