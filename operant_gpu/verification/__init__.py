"""Does an environment do on this machine what it does elsewhere? A quick check that every user has.

`report.py` says what is looked at and in which order, `stepping.py` and `learning.py` look, `comparing.py` tells how
far numbers are apart. It may use all of the library but its monitor and its command line.
"""

from operant_gpu.verification.report import Check, Report, examine, verify

__all__ = ["Check", "Report", "examine", "verify"]
