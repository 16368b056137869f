"""The same environment functions on different machines: a folder for each, of which `select.py` takes one.

In comes a `Batch` in memory; a `Backend` steps, resets and rolls it out in place. `base.py` says what all must do;
`compiled.py`, `stepwise.py`, `threads.py`, `disk_cache.py` and `failures.py` are what several share. They know neither
Gymnasium's interface nor PPO; learners' kernels are launched beside those of environments (`update.py`).
"""
