"""Displays in terminals, pipes and none, and what becomes of training when they break."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from records import RECORD
from rich.console import Console

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import display
from operant_gpu.monitor.display import Display, show_training
from operant_gpu.monitor.view import View


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}, {"TTY_INTERACTIVE": "1"}], ids=str)
def _environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What continuous integration may say of terminals."""
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


def learner() -> PPO:
    return PPO(
        operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(n_steps=8, batch_size=32, hidden_sizes=(16,))
    )


def train(console: Console) -> PPO:
    made = learner()
    made.start, made.target = 0, 512
    with show_training(made, None, console) as show:
        made.learn(512, show)
    return made


def test_a_terminal_gets_a_dashboard_that_ends_with_the_last_metrics() -> None:
    screen = Screen()
    train(Console(file=screen, width=100, color_system=None))
    assert "100%  512 of 512 steps" in screen.getvalue()
    assert "╰─ finished" in screen.getvalue().splitlines()[-2]


@pytest.mark.usefixtures("_environment")
def test_an_output_that_is_no_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LEAST_GAP", 0.01)
    screen = io.StringIO()
    view = View(title="CartPole-v1", target=10_000)
    with Display(view, Console(file=screen, width=40)):
        for place, timesteps in enumerate((1_000, 2_000), 1):
            view.add({**RECORD, "timesteps": timesteps})
            until = time.monotonic() + 30
            while screen.getvalue().count("\n") < place and time.monotonic() < until:
                time.sleep(0.01)
        # Nothing new, and so no line.
        time.sleep(0.1)
    lines = screen.getvalue().splitlines()
    # Each reading once, in a line that is not broken.
    assert [" ".join(text.split())[:25] for text in lines] == ["CartPole-v1 1,000 steps r", "CartPole-v1 2,000 steps r"]


class Broken(io.StringIO):
    def __init__(self, error: Exception, is_terminal: bool = True) -> None:
        super().__init__()
        self._error, self.isatty = error, lambda: is_terminal

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_that_is_gone_stops_the_display_alone(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LEAST_GAP", 0.0)
    console = Console(file=Broken(OSError(5, "Input/output error"), is_terminal))
    assert train(console).timesteps == 512


def test_a_display_that_fails_says_so_and_training_goes_on() -> None:
    console = Console(file=Broken(RuntimeError("no colours left")))
    with pytest.warns(RuntimeWarning, match=r"the display stopped: RuntimeError\('no colours left'\)"):
        assert train(console).timesteps == 512


def test_an_error_of_the_training_is_shown_and_raised() -> None:
    screen = Screen()

    def fail(metrics: dict[str, float]) -> None:
        raise ValueError("of the caller's own")

    made = learner()
    console = Console(file=screen, width=100, color_system=None)
    with pytest.raises(ValueError, match="own"), show_training(made, None, console):
        made.learn(512, fail)
    assert "ValueError: of the caller's own" in screen.getvalue()


def test_drawing_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause is in proportion to how long drawing took: a slow terminal is drawn to less often."""
    pauses: list[float] = []

    class Clock:
        def __init__(self, *arguments: Any) -> None:
            self.is_over = False

        def is_set(self) -> bool:
            return self.is_over

        def wait(self, seconds: float) -> bool:
            pauses.append(seconds)
            self.is_over = True
            return True

    shown = Display(View(title="x", target=1), Console(file=Screen(), width=100))
    monkeypatch.setattr(shown, "_over", Clock())
    real = display.dashboard

    def slow(*arguments: Any) -> Any:
        time.sleep(0.05)
        return real(*arguments)

    monkeypatch.setattr(display, "dashboard", slow)
    shown._run()
    assert shown._failure is None
    assert len(pauses) == 1
    assert pauses[0] >= 200 * 0.05
