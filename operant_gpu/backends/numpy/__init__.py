"""The backend that is everywhere, and the reference of the others: recorded NumPy calls over whole columns."""
