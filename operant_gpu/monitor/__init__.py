"""Runs: directories that outlive any end of a training, and ways to watch them.

In come metrics, from a learner or from files; out come files and what a terminal shows. It steps no environment and
learns nothing; no failure of it reaches the training.
"""

from operant_gpu.monitor.comparing import Comparison, Estimate, Measure, compare
from operant_gpu.monitor.curve import draw_curve
from operant_gpu.monitor.reader import RunReader
from operant_gpu.monitor.run import Run
from operant_gpu.monitor.view import Curve, View
from operant_gpu.monitor.writers import JSONLines, TensorBoard, WeightsAndBiases, Writer

__all__ = [
    "Comparison",
    "Curve",
    "Estimate",
    "JSONLines",
    "Measure",
    "Run",
    "RunReader",
    "TensorBoard",
    "View",
    "WeightsAndBiases",
    "Writer",
    "compare",
    "draw_curve",
]
