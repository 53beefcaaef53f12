"""What a model holds in memory: reports, plans of buffers, a smaller footprint by choice."""
