"""An environment's functions as programs over columns of NumPy arrays, which CPU backends run or compile.

In come jit functions; `rewriting.py` makes NumPy of their syntax, of `operations.py` and `arrays.py`; `tracing.py`
records one run of it, `programs.py` keeps the records, and `trial.py` says what is wrong with a definition. It knows
no backend and no batch.
"""
