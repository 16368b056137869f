"""Displays that draw themselves again and again, in a thread, and never harm what they show."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from operant_gpu.machine import Usage
from operant_gpu.monitor.dashboard import dashboard, line
from operant_gpu.monitor.run import Run
from operant_gpu.monitor.view import View

if TYPE_CHECKING:
    from operant_gpu.models.ppo.learner import PPO
    from operant_gpu.models.ppo.telemetry import Metrics

# Drawing takes at most 1 / 200 of the time, and is done at most twice a second.
_LEAST_PAUSE, _PAUSES_PER_DRAWING = 0.5, 200.0
# Between two lines: a second at first, then less and less often.
_LEAST_GAP, _GREATEST_GAP, _GAP_SHARE = 1.0, 30.0, 0.1


@contextlib.contextmanager
def show_training(learner: PPO, callback: Any = None, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Show a training while it goes on; yield what takes its metrics.

    Args:
        learner: What trains.
        callback: If it is a `Run`, that run is shown.
        console: Where to draw; the standard output if None.
    """
    if isinstance(callback, Run):
        # It adds its metrics itself.
        view, show = callback.view, _nothing
        view.begin(learner)
    else:
        view, usage = View.of(learner), Usage(learner.env.device)

        def show(metrics: Metrics) -> None:
            view.begin(learner)
            view.add({**metrics, **usage.read()})

    with Display(view, console or Console()):
        try:
            yield show
        except BaseException as error:
            view.end(learner.timesteps, error)
            raise
        view.end(learner.timesteps)


def _nothing(metrics: Metrics) -> None:
    pass


class Display:
    """A thread that draws a run; a context manager.

    Args:
        view: The run; another thread changes it.
        console: Where to draw: a dashboard in a terminal, lines elsewhere.
    """

    def __init__(self, view: View, console: Console) -> None:
        self._view, self._console = view, console
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        # A terminal that is gone, a pipe that was closed: nobody looks any more.
        if self._failure is not None and not isinstance(self._failure, OSError):
            warnings.warn(f"the display stopped: {self._failure!r}", RuntimeWarning, stacklevel=2)

    def _run(self) -> None:
        try:
            self._dashboard() if is_lively(self._console) else self._lines()
        except Exception as error:
            self._failure = error

    def _dashboard(self) -> None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(changed_keys(_silence))
            while not self._draw_until_resized():
                # The terminal has broken what was drawn into lines of its new width.
                self._console.clear()

    def _draw_until_resized(self) -> bool:
        """Draw until the training is over (True), or the terminal has another size."""
        size = self._console.size
        with Live(console=self._console, auto_refresh=False) as live:
            while self._console.size == size:
                # Before drawing: the last picture is to have the last metrics.
                is_last = self._over.is_set()
                began = time.perf_counter()
                live.update(dashboard(self._view, size.width), refresh=True)
                if is_last:
                    return True
                drawing = time.perf_counter() - began
                self._over.wait(max(_LEAST_PAUSE, _PAUSES_PER_DRAWING * drawing))
        return False

    def _lines(self) -> None:
        began, shown = time.monotonic(), None
        while not self._over.wait(min(_GREATEST_GAP, max(_LEAST_GAP, _GAP_SHARE * (time.monotonic() - began)))):
            latest = self._view.latest
            if latest and latest is not shown:
                self._console.print(line(self._view), highlight=False, soft_wrap=True)
                shown = latest


@contextlib.contextmanager
def changed_keys(change: Callable[[int], object]) -> Iterator[int]:
    """Change how the terminal of the standard input takes keys, yield its descriptor, and leave it as it was.

    Raises:
        OSError: If the input is no terminal that can be changed.
    """
    try:
        import termios

        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        change(keyboard)
    except Exception as error:
        # Not all systems have termios, not all programs an input, and what termios raises is of no family.
        raise OSError(str(error)) from error
    try:
        yield keyboard
    finally:
        # The terminal may be gone.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _silence(keyboard: int) -> None:
    """Keep a terminal from showing Ctrl-C as ^C, which would move what is drawn."""
    import termios

    # A program in the background would be stopped for asking.
    if os.tcgetpgrp(keyboard) != os.getpgrp():
        raise OSError("the terminal is another program's")
    settings = termios.tcgetattr(keyboard)
    settings[3] &= ~termios.ECHOCTL
    termios.tcsetattr(keyboard, termios.TCSADRAIN, settings)


def is_watched(console: Console) -> bool:
    """Tell whether a console writes to a terminal; rich believes FORCE_COLOR and others that say so of files."""
    # A file that is closed is none, nor is what has no such method.
    with contextlib.suppress(AttributeError, ValueError):
        return console.file.isatty()
    return False


def is_lively(console: Console) -> bool:
    """Tell whether a console can draw over what it has drawn."""
    return is_watched(console) and console.is_terminal and not console.is_dumb_terminal
