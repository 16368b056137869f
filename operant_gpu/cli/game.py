"""Environments as games in a terminal: keys are actions, half blocks are pixels."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.live import Live
from rich.text import Text

from operant_gpu.envs.drawing import Frame
from operant_gpu.errors import InvalidConfig
from operant_gpu.monitor.display import changed_keys, is_lively

if TYPE_CHECKING:
    from operant_gpu.vector import VecEnv

# What a terminal sends for a key; those of games are `environment.KEYS`.
_SEQUENCES = {
    **{f"\x1b{mode}{letter}": key for mode in "[O" for letter, key in zip("ABCD", ("up", "down", "right", "left"))},
    " ": "space",
    "\x1b": "quit",
    "q": "quit",
    "r": "restart",
}
_BEGINNINGS, _SECONDS_OF_SEQUENCE = (b"\x1b", b"\x1b[", b"\x1bO"), 0.05
_LINES_OF_TEXT = 3
_NO_KEY = "none"


class Keyboard(contextlib.ExitStack):
    """Keys as they are pressed, without waiting for a line; a context manager that leaves the terminal as it was.

    Raises:
        InvalidConfig: If the input is no terminal whose keys can be read.
    """

    def __enter__(self) -> Keyboard:
        try:
            import tty

            self._file = self.enter_context(changed_keys(tty.setcbreak))
        except (ImportError, OSError) as error:
            message = "playing needs a terminal whose keys can be read, on Linux or macOS: run it in one, without pipes"
            raise InvalidConfig("play", f"{message} ({error})") from error
        return self

    def read(self, seconds: float | None) -> str | None:
        """Return the next key, None if there is none for so long; None waits, the end of the input counts as quit."""
        if not select.select([self._file], [], [], seconds)[0]:
            return None
        pressed = os.read(self._file, 64)
        if not pressed:
            return "quit"
        # The key of escape, unless more of a sequence follows at once.
        while pressed.endswith(_BEGINNINGS) and select.select([self._file], [], [], _SECONDS_OF_SEQUENCE)[0]:
            more = os.read(self._file, 64)
            if not more:
                break
            pressed += more
        text = pressed.decode(errors="replace")
        # Of several since the last time, the latest.
        return next((key for sequence, key in _SEQUENCES.items() if text.endswith(sequence)), "")


class Game:
    """One environment that a person plays.

    Args:
        env: Of one environment, made with `render_mode="rgb_array"` and DISABLED auto-reset.
        seed: Of the first episode, or None.

    Attributes:
        score: Sum of the episode's rewards.
        steps: How many steps it has had.
        is_over: Whether it has ended.
    """

    def __init__(self, env: VecEnv, seed: int | None) -> None:
        keys = env.environment.keys
        if keys is None:
            raise InvalidConfig("env", f"{env.environment.id} has no keys to play with: give its definition `keys`")
        self._env, self._keys = env, {key: _action_of(key, action, env) for key, action in keys.items()}
        self.restart(seed)

    @property
    def waits(self) -> bool:
        """Whether nothing happens until a key is pressed: before the first step, or because no action is idle."""
        return not self.steps or _NO_KEY not in self._keys

    def restart(self, seed: int | None = None) -> None:
        """Begin a new episode."""
        self._env.reset(seed=seed)
        self.score, self.steps, self.is_over = 0.0, 0, False

    def press(self, key: str | None) -> None:
        """Take the step that a key stands for; other keys are as none, and without a step for none they do nothing."""
        action = self._keys.get(key or _NO_KEY, self._keys.get(_NO_KEY))
        if action is None or self.is_over:
            return
        _, reward, terminated, truncated, _ = self._env.step(torch.as_tensor(action[None], device=self._env.device))
        self.score += float(reward[0])
        self.steps += 1
        self.is_over = bool(terminated[0] | truncated[0])

    def screen(self, columns: int, rows: int) -> Text:
        """Return the picture, as large as fits, and the score below."""
        frames = self._env.render()
        assert frames is not None
        shown = ", ".join(key for key in self._keys if key != _NO_KEY)
        status = f"{self._env.environment.id}  score {self.score:g}  step {self.steps}\n"
        help = f"Keys: {shown}; r restarts, q quits"
        if not self.steps:
            help = f"Press a key to begin. Keys: {shown}; q quits"
        if self.is_over:
            help = "The episode is over: r for another, q to quit"
        return Text.assemble(pixels(frames[0], columns, rows - _LINES_OF_TEXT), (status, "bold"), help)


def _action_of(key: str, action: Any, env: VecEnv) -> np.ndarray[Any, Any]:
    """Return the action of a key; of a Box the nearest that there is, for its range may depend on parameters."""
    space = env.single_action_space
    try:
        found = np.asarray(action, space.dtype)
        is_exact = bool((found == action).all())
    except (TypeError, ValueError):
        found, is_exact = np.empty(0), False
    if isinstance(space, spaces.Box) and found.shape == space.shape:
        # Of a decimal fraction, float32 has the nearest.
        found, is_exact = np.clip(found, space.low, space.high), bool(np.isfinite(found).all())
    if not is_exact or not space.contains(found):
        message = f"the key {key!r} of {env.environment.id} stands for no action: expected one of {space}"
        raise InvalidConfig("env", f"{message}, got {action!r}")
    return found


def pixels(frame: Frame, columns: int, rows: int) -> Text:
    """Return a picture (height, width, 3) as text: each character is two pixels, one above the other."""
    height, width, _ = frame.shape
    size = max(1, -(-width // max(1, columns)), -(-height // (2 * max(1, rows))))
    # Two rows of pixels a line.
    tall, wide = height // size // 2 * 2, width // size
    blocks = frame[: tall * size, : wide * size].reshape(tall, size, wide, size, 3)
    small = blocks.mean((1, 3)).astype(int)
    text = Text(no_wrap=True)
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", f"rgb({','.join(map(str, above))}) on rgb({','.join(map(str, below))})")
        text.append("\n")
    return text


def play(env: VecEnv, fps: float, seed: int | None, console: Console) -> Game:
    """Let a person play in this terminal until they quit; return the game as it stands.

    Args:
        env: As `Game` takes it.
        fps: Steps a second, where the game does not wait for keys.
        seed: Of the first episode, or None.
        console: Where to draw.
    """
    game = Game(env, seed)
    if not is_lively(console):
        raise InvalidConfig("play", "playing needs a terminal that shows pictures: run it in one, without pipes")
    with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(game.screen(*console.size), refresh=True)
            key = _next_key(keyboard, None if game.waits or game.is_over else 1.0 / fps)
            if key == "quit":
                return game
            if key == "restart":
                game.restart()
            else:
                game.press(key)


def _next_key(keyboard: Keyboard, seconds: float | None) -> str | None:
    """Return the last key that is pressed in this time; without a time, the next."""
    if seconds is None:
        return keyboard.read(None)
    until, last = time.perf_counter() + seconds, None
    while (left := until - time.perf_counter()) > 0:
        key = keyboard.read(left)
        if key in ("quit", "restart"):
            return key
        last = key or last
    return last
