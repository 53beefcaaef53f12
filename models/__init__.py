"""Reference models: trained ones that arrive inside PyPI packages (``zoo``), and builders of any size."""
