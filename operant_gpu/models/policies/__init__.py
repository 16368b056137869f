"""Policies: a network, the distribution that its outputs describe, and the scaling of what it sees.

In come observations, masks and memory; out come actions, their log-probabilities and values. They know no environment
in motion and nothing of how they are taught, though `normalization.py` scales rewards too.
"""
