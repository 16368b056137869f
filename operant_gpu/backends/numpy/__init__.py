"""The backend that is everywhere, and the reference of the others: recorded NumPy calls over whole columns.

In comes a batch; its memory, as arrays, is what programs of `../lowering` compute on. It knows no other backend.
"""
