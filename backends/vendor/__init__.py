"""Runtimes that models are exported for: what each demands of a quantized model, checked node by node."""
