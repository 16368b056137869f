"""Gymnasium's vector wrappers around environments of the library: which work, and what others answer."""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium import wrappers as single
from gymnasium.wrappers import vector as wrappers
from here import ROOT

from operant_gpu import AutoresetMode

pytestmark = pytest.mark.quick

N = 5
STEPS = 30
MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
SAME_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
VERSION = tuple(int(number) for number in re.findall(r"\d+", gymnasium.__version__)[:3])
# The version that refuses with messages, and whose wrappers the page describes.
DESCRIBED = (1, 4, 0)
HAS_CONVERSION = VERSION >= (1, 2, 0) and importlib.util.find_spec("array_api_compat") is not None

WORKS, WARNS, WRONG = "works", "warns", "wrong values"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A wrapper, and what is to come of it.

    Attributes:
        wrap: Wraps an environment.
        env: Which.
        settings: What the environment is made with.
        action: What the environment is to get of actions (N, ...).
        obs: Which observations are to come, of what an environment without wrapper gives.
        reward: Which rewards, likewise, in a mode.
        info: Looks at infos: the wrapper, its infos and those without wrapper.
        cells: What a mode brings that is not "works": a word, or the type of the error and a part of its message.
        needs: Packages.
        since: The Gymnasium that has it as it is described, in all modes or in one.
        takes_tensors: Whether it takes tensors as they are.
    """

    wrap: Callable[[Any], Any]
    env: str = "CartPole-v1"
    settings: dict[str, Any] = field(default_factory=dict)
    action: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
    obs: Callable[[np.ndarray], np.ndarray] = lambda obs: obs
    reward: Callable[[Arrays, AutoresetMode], np.ndarray] = lambda raw, mode: raw["reward"]
    info: Callable[[Any, list[Any], list[Any]], None] = lambda env, infos, raw: None
    cells: Mapping[AutoresetMode, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    since: Mapping[AutoresetMode, tuple[int, ...]] = field(default_factory=dict)
    takes_tensors: bool = False

    def cell(self, mode: AutoresetMode) -> str:
        """Return what the page's table is to say."""
        expected = self.cells.get(mode, WORKS)
        return expected if isinstance(expected, str) else f"`{expected[0].__name__}`"


def normalized(obs: np.ndarray) -> np.ndarray:
    """Return each observation less the mean of those so far, by their deviation."""
    seen = [obs[: step + 1].reshape(-1, obs.shape[-1]) for step in range(len(obs))]
    return np.stack([(one - some.mean(0)) / np.sqrt(some.var(0) + 1e-8) for one, some in zip(obs, seen, strict=True)])


def discounted_returns(raw: Arrays, mode: AutoresetMode) -> np.ndarray:
    """Return rewards by the deviation of the discounted returns so far."""
    total, seen, expected = np.zeros(N), [], np.zeros_like(raw["reward"])
    resetting = np.zeros(N, bool)
    for step, reward in enumerate(raw["reward"]):
        ended = raw["terminated"][step] | raw["truncated"][step]
        total = np.where(resetting, total, total * 0.9 * ~raw["terminated"][step] + reward)
        seen += total[~resetting].tolist()
        expected[step] = reward / (np.std(seen) + 1e-12)
        if mode is AutoresetMode.NEXT_STEP:
            resetting = ended
        else:
            total[ended] = 0
    return expected


def rows_of_episodes(env: Any, infos: list[Any], raw: list[Any]) -> None:
    """Look at infos in lists."""
    assert infos[0] == [{}] * N
    for ones, info in zip(infos[1:], raw[1:], strict=True):
        # A partial reset tells nothing.
        for row, one in enumerate(ones):
            ended = bool(info) and info["_episode"][row]
            assert set(one) == ({"final_obs", "episode"} if ended else set())
            if ended:
                assert one["episode"] == {"r": info["episode"]["r"][row], "l": info["episode"]["l"][row]}
                np.testing.assert_array_equal(one["final_obs"], info["final_obs"][row])


def same_statistics(env: Any, infos: list[Any], raw: list[Any]) -> None:
    """Look at Gymnasium's statistics: they are those of the library."""
    ended = [info for info in raw if info and info["_episode"].any()]
    returns, lengths = (np.concatenate([info["episode"][name][info["_episode"]] for info in ended]) for name in "rl")
    assert env.episode_count == len(returns)
    assert list(env.return_queue) == returns.tolist()
    assert list(env.length_queue) == lengths.tolist()
    for info in infos:
        if info and info["_episode"].any():
            assert info["_stats"].tolist() == info["_episode"].tolist()
            assert info["stats"]["l"].tolist() == np.where(info["_episode"], info["episode"]["l"], 0).tolist()


def one_video(env: Any, infos: list[Any], raw: list[Any]) -> None:
    """Look at what was recorded: the first episode."""
    env.close()
    assert len(list(Path(env.video_folder).glob("*.mp4"))) == 1


FOLDERS = itertools.count()
DOUBLED = spaces.Box(-np.inf, np.inf, (8,), np.float32)
IMAGE = spaces.Box(0, 255, (10, 10, 3), np.uint8)


def transformed(env: Any, func: Any, space: Any) -> Any:
    """Transform each observation."""
    return wrappers.VectorizeTransformObservation(
        env, wrapper=single.TransformObservation, func=func, observation_space=space
    )


def dictionaries(env: Any) -> Any:
    """Return an environment whose observations are dictionaries."""
    space = spaces.Dict({"own": env.single_observation_space, "other": spaces.Box(-1, 1, (1,), np.float32)})
    return transformed(env, lambda obs: {"own": obs, "other": np.zeros(1, np.float32)}, space)


def images(env: Any) -> Any:
    """Return a Snake whose observations are coloured images."""
    return transformed(env, lambda obs: as_images(np.asarray(obs)), IMAGE)


def as_images(obs: np.ndarray) -> np.ndarray:
    return (np.moveaxis(obs, -3, -1) * 255).astype(np.uint8)


def refused(kind: type[Exception], part: str) -> dict[AutoresetMode, Any]:
    """Return cells of what refuses in every mode."""
    return {**dict.fromkeys(MODES, (kind, part)), **OBSERVATIONS}


def since(*version: int) -> dict[AutoresetMode, tuple[int, ...]]:
    return dict.fromkeys(MODES, version)


OBSERVATIONS = {SAME_STEP: (ValueError, "Expected autoreset_mode to be NEXT_STEP or DISABLED")}
PICTURES = {"env": "Snake-v0", "settings": {"render_mode": "rgb_array"}, "takes_tensors": True}

# As in the page's table.
ROWS = {
    "VectorizeTransformObservation": Row(
        # The same space: it writes into the observations themselves.
        lambda env: transformed(env, lambda obs: obs * 2, env.single_observation_space),
        obs=lambda obs: obs * 2,
        cells=OBSERVATIONS,
    ),
    "VectorizeTransformAction": Row(
        lambda env: wrappers.VectorizeTransformAction(env, wrapper=single.TransformAction, **halves(env)),
        env="Pendulum-v1",
        action=lambda actions: actions / 2,
    ),
    "VectorizeTransformReward": Row(
        lambda env: wrappers.VectorizeTransformReward(env, wrapper=single.TransformReward, func=lambda one: one * 3),
        env="Pendulum-v1",
        reward=lambda raw, mode: raw["reward"] * 3,
        takes_tensors=True,
    ),
    "DictInfoToList": Row(wrappers.DictInfoToList, info=rows_of_episodes, since=since(1, 2, 2)),
    "TransformObservation": Row(
        lambda env: wrappers.TransformObservation(env, lambda obs: obs * 2),
        obs=lambda obs: obs * 2,
        cells=OBSERVATIONS,
        takes_tensors=True,
    ),
    "FilterObservation": Row(
        lambda env: wrappers.FilterObservation(env, ["own"]),
        cells=refused(ValueError, "only usable with `Dict` and `Tuple` observations"),
    ),
    "FlattenObservation": Row(
        wrappers.FlattenObservation,
        env="Snake-v0",
        obs=lambda obs: obs.reshape(*obs.shape[:2], -1),
        cells=OBSERVATIONS,
    ),
    "GrayscaleObservation": Row(
        wrappers.GrayscaleObservation,
        env="Snake-v0",
        cells=refused(ValueError, r"requires an image with 3 channels, got shape \(3, 10, 10\)"),
    ),
    "ResizeObservation": Row(
        lambda env: wrappers.ResizeObservation(env, (5, 5)),
        env="Snake-v0",
        cells=refused(ValueError, "requires observation bounds 0 to 255"),
    ),
    "ReshapeObservation": Row(
        lambda env: wrappers.ReshapeObservation(env, (30, 10)),
        env="Snake-v0",
        obs=lambda obs: obs.reshape(*obs.shape[:2], 30, 10),
        cells=OBSERVATIONS,
    ),
    "RescaleObservation": Row(
        lambda env: wrappers.RescaleObservation(env, -2, 3),
        env="Pendulum-v1",
        obs=lambda obs: obs / np.array([1, 1, 8]) * 2.5 + 0.5,
        cells=OBSERVATIONS,
    ),
    "DtypeObservation": Row(
        lambda env: wrappers.DtypeObservation(env, np.float64),
        obs=lambda obs: obs.astype(np.float64),
        cells=OBSERVATIONS,
    ),
    "NormalizeObservation": Row(
        wrappers.NormalizeObservation,
        obs=normalized,
        cells={**OBSERVATIONS, DISABLED: (ValueError, "to be AutoresetMode.NEXT_STEP")},
    ),
    "TransformAction": Row(
        lambda env: wrappers.TransformAction(env, lambda actions: actions / 2),
        env="Pendulum-v1",
        action=lambda actions: actions / 2,
        takes_tensors=True,
    ),
    "ClipAction": Row(wrappers.ClipAction, env="Pendulum-v1", action=lambda actions: actions.clip(-2, 2)),
    "RescaleAction": Row(
        lambda env: wrappers.RescaleAction(env, -4, 4), env="Pendulum-v1", action=lambda actions: actions / 2
    ),
    "TransformReward": Row(
        lambda env: wrappers.TransformReward(env, lambda reward: reward * 3),
        reward=lambda raw, mode: raw["reward"] * 3,
        takes_tensors=True,
    ),
    "ClipReward": Row(
        lambda env: wrappers.ClipReward(env, -1, 0.25),
        env="Pendulum-v1",
        reward=lambda raw, mode: raw["reward"].clip(-1, 0.25),
    ),
    "NormalizeReward": Row(
        lambda env: wrappers.NormalizeReward(env, gamma=0.9),
        reward=discounted_returns,
        # A reset of some starts the sum of every environment anew.
        cells={DISABLED: WRONG},
        since=since(1, 4, 0),
    ),
    "RecordEpisodeStatistics": Row(
        lambda env: wrappers.RecordEpisodeStatistics(env, stats_key="stats"),
        info=same_statistics,
        # Earlier ones left out the step after each end.
        since={SAME_STEP: (1, 4, 0)},
    ),
    "RecordVideo": Row(
        lambda env: wrappers.RecordVideo(env, f"videos{next(FOLDERS)}", episode_trigger=lambda episode: episode == 0),
        info=one_video,
        cells={SAME_STEP: WARNS},
        needs=("moviepy", "pygame"),
        since=since(1, 2, 1),
        **PICTURES,
    ),
    "HumanRendering": Row(wrappers.HumanRendering, needs=("cv2", "pygame"), **PICTURES),
    "ArrayConversion": Row(
        lambda env: wrappers.ArrayConversion(env, env_xp=torch, target_xp=np),
        settings={"output": "torch"},
        needs=("array_api_compat",),
        since=since(1, 2, 0),
    ),
    "JaxToNumpy": Row(lambda env: wrappers.JaxToNumpy(env), needs=("jax", "array_api_compat"), since=since(1, 2, 0)),
    "JaxToTorch": Row(lambda env: wrappers.JaxToTorch(env), needs=("jax", "array_api_compat"), since=since(1, 2, 0)),
    "NumpyToTorch": Row(lambda env: wrappers.NumpyToTorch(env), needs=("array_api_compat",), since=since(1, 2, 0)),
}
# What the page says to do where a wrapper refuses.
INSTEAD = {
    "FilterObservation of dictionaries": Row(
        lambda env: wrappers.FlattenObservation(wrappers.FilterObservation(dictionaries(env), ["own"])),
        cells=OBSERVATIONS,
    ),
    "GrayscaleObservation of images": Row(
        lambda env: wrappers.GrayscaleObservation(images(env)),
        env="Snake-v0",
        obs=lambda obs: (as_images(obs) @ np.array([0.2125, 0.7154, 0.0721])).astype(np.uint8),
        cells=OBSERVATIONS,
    ),
    "ResizeObservation of images": Row(
        lambda env: wrappers.ResizeObservation(images(env), (10, 10)),
        env="Snake-v0",
        obs=as_images,
        cells=OBSERVATIONS,
        needs=("cv2",),
    ),
}
ALL = ROWS | INSTEAD
TENSORS = [name for name, row in ROWS.items() if row.takes_tensors]


def halves(env: Any) -> dict[str, Any]:
    """Return settings of a wrapper that halves actions and keeps their space."""
    return {"func": lambda actions: actions / 2, "action_space": env.single_action_space}


def made(row: Row, mode: AutoresetMode, **settings: Any) -> Any:
    """Return an environment for a row."""
    usual = {"device": "cpu", "backend": "numpy", "output": "numpy", "max_episode_steps": 11}
    given = {**usual, **row.settings, **settings}
    # What draws is closed at the end, and an older Gymnasium's wrappers close what they wrap when they are let go.
    make = new if "render_mode" in given or VERSION < DESCRIBED else shared
    return make(row.env, mode, tuple(sorted(given.items())))


def new(name: str, mode: AutoresetMode, settings: tuple[tuple[str, Any], ...]) -> Any:
    return gymnasium.make_vec(f"operant_gpu/{name}", N, autoreset_mode=mode, **dict(settings))


# To make one takes longer than its steps.
shared = functools.cache(new)


def given_actions(row: Row) -> np.ndarray:
    """Return actions (steps, N, ...): a CartPole falls at times, and at times reaches the limit."""
    rng = np.random.default_rng(4)
    steps = 14 if row.needs and row.env == "Snake-v0" else STEPS
    if row.env == "Pendulum-v1":
        return rng.uniform(-4, 4, (steps, N, 1)).astype(np.float32)
    return (rng.random((steps, N)) < 0.85).astype(np.int64)


def copies(returned: tuple[Any, ...]) -> tuple[list[np.ndarray], Any]:
    """Return copies of arrays or tensors, and of info: what an environment returned is let go before its next call."""
    *parts, info = returned
    return [np.array(np.asarray(part)) for part in parts], copy.deepcopy(info)


def record(env: Any, actions: np.ndarray, mode: AutoresetMode, as_tensors: bool = False) -> tuple[Arrays, list[Any]]:
    """Step and return the outputs, (steps, N, ...), with every observation of a reset, and all infos."""
    env.unwrapped.get_logs(clear=True)
    every_obs, info = copies(env.reset(seed=3))
    steps, infos = [], [info]
    # Wrappers may write into actions.
    for given in actions.copy():
        step, info = copies(env.step(torch.from_numpy(given) if as_tensors else given))
        obs, _, terminated, truncated = step
        steps.append(step)
        every_obs.append(obs)
        infos.append(info)
        ended = terminated | truncated
        if mode is DISABLED and ended.any():
            (obs,), info = copies(env.reset(options={"reset_mask": ended}))
            every_obs.append(obs)
            infos.append(info)
    _, reward, terminated, truncated = (np.stack(one) for one in zip(*steps, strict=True))
    arrays = {"obs": np.stack(every_obs), "reward": reward, "terminated": terminated, "truncated": truncated}
    return arrays, infos


def skip_what_is_missing(name: str, mode: AutoresetMode) -> None:
    first = ALL[name].since.get(mode, (1, 1, 0))
    if first > VERSION:
        pytest.skip(f"needs Gymnasium {'.'.join(map(str, first))}")
    for package in ALL[name].needs:
        pytest.importorskip(package)


@functools.cache
def without(name: str, mode: AutoresetMode) -> tuple[Arrays, list[Any], dict[str, float]]:
    """Return outputs, infos and logs of an environment without the wrapper."""
    row = ALL[name]
    env = made(row, mode, output="numpy")
    arrays, infos = record(env, row.action(given_actions(row)), mode)
    logs = env.get_logs()
    assert logs["episode_count"] > N
    return arrays, infos, logs


def assert_as_expected(name: str, mode: AutoresetMode, env: Any, as_tensors: bool = False) -> None:
    """Compare a wrapped environment with one that is not."""
    row = ALL[name]
    found, infos = record(env, given_actions(row), mode, as_tensors)
    # Before the environment, which may be the same, does without the wrapper.
    found_logs = env.unwrapped.get_logs()
    raw, raw_infos, logs = without(name, mode)
    expected = {**raw, "obs": row.obs(raw["obs"]), "reward": row.reward(raw, mode)}
    # Running means start from a tiny prior, which fades.
    start, tolerance = (20, 1e-3) if name.startswith("Normalize") else (0, 1e-5)
    for part, array in found.items():
        pair = array[start:], expected[part][start:]
        if part == "reward" and row.cells.get(mode) == WRONG:
            assert not np.allclose(*pair, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_allclose(*pair, rtol=tolerance, atol=tolerance, err_msg=part)
    assert found["obs"].dtype == env.single_observation_space.dtype
    assert found_logs == logs
    row.info(env, infos, raw_infos)
    if env.render_mode is not None:
        env.close()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a window, and in a folder for videos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", ALL)
def test_a_wrapper_works_or_says_why_not(name: str, mode: AutoresetMode) -> None:
    skip_what_is_missing(name, mode)
    row = ALL[name]
    expected = row.cells.get(mode, WORKS)
    as_tensors = name.endswith("ToTorch")
    if isinstance(expected, tuple):
        kind, part = expected
        kinds, match = (kind, part) if VERSION >= DESCRIBED else ((kind, AssertionError), None)
        with pytest.raises(kinds, match=match):
            row.wrap(made(row, mode))
        return
    # As `make_vec` has it, in memory that each step writes anew, and where somebody looks whether that is kept.
    ways: list[dict[str, Any]] = [{}, {"copy": False}, {"copy": False, "debug": True}]
    for settings in ways:
        env = made(row, mode, **settings)
        if expected == WARNS:
            with pytest.warns(UserWarning, match="same-step"):
                env = row.wrap(env)
        else:
            env = row.wrap(env)
        assert_as_expected(name, mode, env, as_tensors)


@pytest.mark.skipif(not HAS_CONVERSION, reason="needs array-api-compat, and Gymnasium 1.2 or later")
@pytest.mark.parametrize("name", [name for name, row in ALL.items() if "array_api_compat" not in row.needs])
def test_tensors_are_converted_for_a_wrapper(name: str) -> None:
    mode = AutoresetMode.NEXT_STEP
    skip_what_is_missing(name, mode)
    row = ALL[name]
    if mode not in row.cells:
        env = wrappers.ArrayConversion(made(row, mode, output="torch"), env_xp=torch, target_xp=np)
        assert_as_expected(name, mode, row.wrap(env), name.endswith("ToTorch"))


@pytest.mark.parametrize("name", TENSORS)
def test_a_wrapper_takes_tensors_as_they_are(name: str) -> None:
    mode = AutoresetMode.NEXT_STEP
    skip_what_is_missing(name, mode)
    assert_as_expected(name, mode, ROWS[name].wrap(made(ROWS[name], mode, output="torch")), as_tensors=True)


def test_episodes_end_in_both_ways_and_not_all_at_once() -> None:
    row = ROWS["TransformReward"]
    raw, _ = record(made(row, DISABLED), given_actions(row), DISABLED)
    ended = raw["terminated"] | raw["truncated"]
    assert raw["terminated"].any()
    assert raw["truncated"].any()
    assert ((ended.sum(axis=1) > 0) & (ended.sum(axis=1) < N)).any()


# ---- the page


PAGE = (ROOT / "docs" / "gymnasium.md").read_text()


def test_the_page_says_of_each_wrapper_what_it_does() -> None:
    lines = re.findall(r"^\| (`\w+`[^|]*) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    found = {name: tuple(cells) for names, *cells in lines for name in re.findall(r"`(\w+)`", names)}
    assert found == {name: tuple(row.cell(mode) for mode in MODES) for name, row in ROWS.items()}


def test_the_page_lists_the_wrappers_that_take_tensors() -> None:
    sentence = re.search(r"These wrappers also take tensors: (.*?)\.", PAGE, re.DOTALL)
    assert sentence is not None
    assert sorted(re.findall(r"`(\w+)`", sentence[1])) == sorted(TENSORS)


@pytest.mark.skipif(VERSION < DESCRIBED, reason="the page is about a later Gymnasium")
def test_the_table_has_every_wrapper() -> None:
    assert set(wrappers.__all__) <= set(ROWS)
