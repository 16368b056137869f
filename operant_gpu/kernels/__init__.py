"""Generic Triton kernels. No environment is named here."""
