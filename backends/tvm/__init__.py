"""Lowering to Apache TVM: our groups, layouts, order and memory plan as kernels that its virtual machine calls."""
