"""Runs: directories that outlive any end of a training, and ways to watch them."""

from operant_gpu.monitor.curve import draw_curve
from operant_gpu.monitor.reader import RunReader
from operant_gpu.monitor.run import Run
from operant_gpu.monitor.view import View
from operant_gpu.monitor.writers import JSONLines, TensorBoard, WeightsAndBiases, Writer

__all__ = ["JSONLines", "Run", "RunReader", "TensorBoard", "View", "WeightsAndBiases", "Writer", "draw_curve"]
