"""What the commands and the Python API call: optimize, validate, measure, report."""
