"""ONNX Runtime: x86 and ARM processors, and NVIDIA GPUs through its CUDA provider."""
