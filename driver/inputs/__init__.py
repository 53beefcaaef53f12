"""Sample inputs: read from files, made up, explained where they do not fit."""
