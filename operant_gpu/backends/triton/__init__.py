"""Environments and learners on a GPU or in Triton's interpreter: what launches `operant_gpu/kernels/triton`.

In come a batch's tensors; arguments, shapes and compile-time constants go out to kernels. It knows no CUDA graph:
what it launches can be captured.
"""
