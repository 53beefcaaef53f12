"""Differential fuzzing of passes: random models, each pass, ONNX Runtime as the judge."""
