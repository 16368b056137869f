"""Playing in a terminal: the game, its picture, and the command in a terminal of its own."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import select
import sys
import time
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import operant_gpu
from operant_gpu import AutoresetMode, InvalidConfig
from operant_gpu.cli import main
from operant_gpu.cli.game import Game, Keyboard, pixels, play

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals there have no termios")
# Those of the library: other tests register environments of their own later.
LIBRARY = operant_gpu.list_envs()
PLAYED = [name for name in LIBRARY if operant_gpu.registry.find(name).keys]


def game_of(name: str, **settings: float) -> Game:
    mode = AutoresetMode.DISABLED
    return Game(operant_gpu.make(name, device="cpu", render_mode="rgb_array", autoreset_mode=mode, **settings), seed=3)


def test_every_environment_of_the_library_can_be_played() -> None:
    assert PLAYED == LIBRARY


@pytest.mark.parametrize("name", PLAYED)
def test_every_key_is_an_action_that_the_environment_takes(name: str) -> None:
    game = game_of(name)
    keys = operant_gpu.registry.find(name).keys or {}
    for taken, key in enumerate(keys, 1):
        game.press(key)
        assert game.steps == taken or game.is_over
    game._env.check()


def test_arrows_move_what_they_point_at() -> None:
    game = game_of("MinAtar-Breakout-v1", sticky_action_prob=0.0)
    paddle = game._env.state.paddle
    start = int(paddle)
    for key, moved in (("left", -1), ("right", 0), ("none", 0)):
        game.press(key)
        assert int(paddle) == start + moved, key
    snake = game_of("Snake-v0")
    snake._env.state.head.fill_(44)
    for key, cell in (("up", 34), ("left", 33), ("down", 43)):
        snake.press(key)
        assert int(snake._env.state.head) == cell


def test_a_game_that_waits_takes_no_step_without_a_key() -> None:
    waiting, running = game_of("Snake-v0"), game_of("MinAtar-Breakout-v1")
    for key in (None, "", "space"):
        waiting.press(key)
        running.press(key)
    assert (waiting.waits, running.waits) == (True, False)
    assert (waiting.steps, running.steps) == (0, 3)


def test_an_episode_begins_at_the_first_key() -> None:
    game = game_of("MinAtar-Breakout-v1")
    for _ in range(2):
        assert game.waits
        assert "Press a key to begin. Keys: left, right; q quits" in game.screen(80, 24).plain
        game.press("left")
        assert not game.waits
        assert "Keys: left, right; r restarts, q quits" in game.screen(80, 24).plain
        game.restart()


class _Keys:
    """A keyboard on which these keys are pressed, each once somebody waits without a time for it."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)

    def __enter__(self) -> _Keys:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, seconds: float | None) -> str | None:
        return None if seconds is not None else self.keys.pop(0)


def test_a_game_waits_for_a_key_before_each_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = AutoresetMode.DISABLED
    env = operant_gpu.make("MinAtar-Breakout-v1", device="cpu", render_mode="rgb_array", autoreset_mode=mode)
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    # Begin, wait for the end, look at the score whatever is pressed, ask for another, begin it, and so on.
    keyboard = _Keys("left", "left", "restart", "", "quit")
    monkeypatch.setattr("operant_gpu.cli.game.Keyboard", lambda: keyboard)
    game = play(env, 100.0, 3, Console(file=screen, width=80, height=30, force_terminal=True))
    assert (game.is_over, keyboard.keys) == (True, [])
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    # The last picture of the first episode stands until `r`, though a key was pressed.
    assert shown.count("Press a key to begin") == 2
    assert shown.count("The episode is over: r for another, q to quit") == 3


def test_score_and_steps_are_those_of_the_episode_until_a_restart() -> None:
    game = game_of("CartPole-v1")
    while not game.is_over:
        game.press("left")
    assert game.score == game.steps > 5
    steps = game.steps
    game.press("left")
    assert game.steps == steps
    assert "The episode is over" in game.screen(80, 24).plain
    game.restart()
    assert (game.score, game.steps, game.is_over) == (0.0, 0, False)
    assert "score 0" in game.screen(80, 24).plain


def test_pixels_are_the_mean_colours_of_their_part_of_the_picture() -> None:
    frame = np.zeros((8, 4, 3), np.uint8)
    frame[:4, :2] = (200, 100, 0)
    frame[2:4, :2] = (0, 100, 40)
    text = pixels(frame, columns=2, rows=2)
    assert text.plain == "▀▀\n▀▀\n"
    assert [span.style for span in text.spans] == [
        "rgb(200,100,0) on rgb(0,100,40)",
        *["rgb(0,0,0) on rgb(0,0,0)"] * 3,
    ]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (20, 60), (5, 5)])
def test_the_picture_fits_the_terminal(columns: int, rows: int) -> None:
    console = Console(file=io.StringIO(), width=columns, height=rows)
    lines = game_of("MountainCar-v0").screen(columns, rows).plain.split("\n")
    picture = [line for line in lines if "▀" in line]
    assert 0 < len(picture) <= rows - 2
    assert max(map(len, picture)) <= columns
    assert console.size == (columns, rows)


def test_the_command_plays_in_a_terminal() -> None:
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="80", LINES="30")
        os.execv(sys.executable, [sys.executable, "-m", "operant_gpu", "play", "Snake-v0", "--seed", "1"])
    pressed = (("", "step 0"), ("\x1b[A", "step 1"), ("\x1bOD", "step 2"), ("r", "step 0"), ("q", "in 0 steps"))
    shown = ""
    for key, awaited in pressed:
        os.write(terminal, key.encode())
        shown = ""
        deadline = time.monotonic() + 120
        while awaited not in shown and time.monotonic() < deadline:
            if select.select([terminal], [], [], 1)[0]:
                shown += os.read(terminal, 65_536).decode(errors="replace")
        assert awaited in shown, key
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "Snake-v0: score 0 in 0 steps" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Snak-v0"], "did you mean 'Snake-v0'"),
        (["Snake-v0", "--fps", "0"], "fps: expected 0.1 to 100 steps a second, got 0.0"),
        (["Snake-v0", "--seed", "-1"], "seed: expected an integer"),
        (["Snake-v0"], "playing needs a terminal that shows pictures"),
    ],
)
def test_a_mistake_gets_its_reason_and_status_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["play", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert printed.out == ""


def test_an_input_that_is_no_terminal_has_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(InvalidConfig, match="whose keys can be read"), Keyboard():
            pass


def test_keys_that_no_keyboard_has_are_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"^keys: unknown key 'jump': expected some of up, down, left, "):
        dataclasses.replace(operant_gpu.envs.Snake, keys={"jump": 0})


@pytest.mark.parametrize("keys", [["up"], 5])
def test_keys_are_a_dictionary(keys: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"^keys: expected a dictionary"):
        dataclasses.replace(operant_gpu.envs.Snake, keys=keys)


@pytest.mark.parametrize("action", [99, 1.5])
def test_keys_stand_for_actions(action: float) -> None:
    other = dataclasses.replace(operant_gpu.envs.Snake, keys={"up": action})
    with pytest.raises(InvalidConfig, match=r"^env: the key 'up' of Snake-v0 stands for no action"):
        Game(other(render_mode="rgb_array", device="cpu"), None)


def test_keys_of_a_box_follow_its_range() -> None:
    env = operant_gpu.envs.Pendulum(render_mode="rgb_array", device="cpu", max_torque=0.5, autoreset_mode="DISABLED")
    game = Game(env, 0)
    game.press("left")
    assert game.steps == 1
    other = dataclasses.replace(operant_gpu.envs.Pendulum, keys={"left": 2.0})
    with pytest.raises(InvalidConfig, match=r"the key 'left' .*: expected one of Box\(-2.0, 2.0, \(1,\), .*got 2.0$"):
        Game(other(render_mode="rgb_array", device="cpu"), None)


def test_escape_quits_alone_but_not_as_the_beginning_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    terminal, keys = pty.openpty()
    with os.fdopen(keys) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with Keyboard() as keyboard:
            # 64 bytes of it are 21 keys and an escape.
            os.write(terminal, b"\x1b[A" * 22)
            assert keyboard.read(5.0) == "up"
            os.write(terminal, b"\x1b")
            assert keyboard.read(5.0) == "quit"
    os.close(terminal)


def test_an_environment_without_keys_is_not_played() -> None:
    silent = dataclasses.replace(operant_gpu.envs.Snake, keys=None)
    with pytest.raises(InvalidConfig, match=r"^env: Snake-v0 has no keys to play with"):
        Game(silent(render_mode="rgb_array", device="cpu"), None)
