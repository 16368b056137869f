"""Videos of policies at play: animated GIFs and MP4."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from operant_gpu.envs.drawing import Frame
from operant_gpu.errors import InvalidConfig, OperantError, needed, whole
from operant_gpu.files import as_path, make_whole
from operant_gpu.models.contexts import undisturbed
from operant_gpu.models.evaluation import (
    STEP_LIMIT,
    check_learner,
    sibling,
    sibling_controller,
)
from operant_gpu.models.ppo.learner import PPO
from operant_gpu.vector import VecEnv

_FORMATS = (".gif", ".mp4")
# GIF has no more, and viewers slow down what is faster.
_COLORS, _MOST_OF_GIF = 256, 50
# What H.264's sampling of colours asks for.
_MULTIPLE = 2


@dataclass
class Recording:
    """What a video shows.

    Attributes:
        returns: Sum of rewards of each episode; the last one may not have ended.
        steps: Steps of all of them.
    """

    returns: list[float]
    steps: int


def record(
    learner: PPO,
    path: str | os.PathLike[str],
    *,
    episodes: int = 1,
    deterministic: bool = True,
    seed: int = 1_000_000,
    max_steps: int = 1000,
    fps: int = 30,
    params: Mapping[str, Any] | None = None,
) -> Recording:
    """Let a policy play, and write what the environment draws to a file.

    Args:
        learner: What has the policy; the environment is a new one like its own.
        path: A file that ends in .gif or .mp4 (which needs imageio-ffmpeg).
        episodes: How many, one after the other.
        deterministic: Whether to take the likeliest actions rather than to sample.
        seed: Of the first episode and of the draws.
        max_steps: Steps after which the video ends, whatever else.
        fps: Steps a second.
        params: Parameters of the environment that are not to be the training's, as for `evaluate`.

    Raises:
        InvalidConfig: If the file is of another kind or cannot be written, a number makes no sense, or the environment
            has no pictures.
        BackendError: If a library is missing.
    """
    check_learner(learner)
    whole("seed", seed, 0)
    target = as_path("out", path)
    if target.suffix.lower() not in _FORMATS:
        raise InvalidConfig("out", f"expected a file that ends in {' or '.join(_FORMATS)}, got {str(target)!r}")
    for name, value, most in (("episodes", episodes, 10_000), ("max_steps", max_steps, STEP_LIMIT), ("fps", fps, 100)):
        whole(name, value, 1, most)
    if learner.env.environment.draw is None:
        message = f"{learner.env.environment.id} has no pictures: give its definition a `draw` function"
        raise InvalidConfig("env", message)
    is_gif = target.suffix.lower() == ".gif"
    if is_gif and fps > _MOST_OF_GIF:
        raise InvalidConfig("fps", f"a GIF has at most {_MOST_OF_GIF} steps a second, got {fps}: write an .mp4")
    write, made = (_gif if is_gif else _mp4), Recording([], 0)
    env = sibling(learner, 1, params, render_mode="rgb_array", autoreset_mode=AutoresetMode.DISABLED)
    frames = _play(learner, env, made, episodes, deterministic, seed, max_steps)
    try:
        with undisturbed(learner.env.device):
            make_whole(target, lambda path: write(frames, fps, path))
    except OSError as error:
        raise InvalidConfig("out", f"cannot write {str(target)!r}: {error}") from error
    return made


def _play(
    learner: PPO, env: VecEnv, made: Recording, episodes: int, deterministic: bool, seed: int, max_steps: int
) -> Iterator[Frame]:
    """Yield the pictures of episodes, the first and the last of each included."""
    act = sibling_controller(learner, deterministic, seed)
    for episode in range(episodes):
        obs, info = env.reset(seed=seed + episode)
        made.returns.append(0.0)
        ended = torch.ones(1, dtype=torch.bool, device=env.device)
        yield _draw(env)
        while True:
            actions = act(obs, ended, info.get("action_mask"))
            obs, reward, terminated, truncated, info = env.step(actions)
            ended = torch.zeros_like(ended)
            made.returns[-1] += float(reward)
            made.steps += 1
            yield _draw(env)
            if made.steps >= max_steps:
                return
            if terminated | truncated:
                break


def _draw(env: VecEnv) -> Frame:
    """Return the picture of an environment, if it is one."""
    try:
        (frame,) = env.render() or ()
    except OperantError:
        raise
    except Exception as error:
        message = f"drawing {env.environment.id} failed: {type(error).__name__}: {error}; look at its `draw` function"
        raise InvalidConfig("draw", message) from error
    return frame


def _gif(frames: Iterator[Frame], fps: int, path: Path) -> None:
    # Here, since it takes a moment to import.
    from PIL import Image

    first, *rest = (Image.fromarray(frame).quantize(_COLORS, dither=Image.Dither.NONE) for frame in frames)
    # GIF counts in hundredths of a second.
    first.save(path, "GIF", save_all=True, append_images=rest, duration=10 * round(100 / fps), loop=0)


def _mp4(frames: Iterator[Frame], fps: int, path: Path) -> None:
    imageio_ffmpeg = needed("MP4", "imageio_ffmpeg", ", or write a .gif")
    first = next(frames)
    rows, columns = (-size % _MULTIPLE for size in first.shape[:2])
    size = first.shape[1] + columns, first.shape[0] + rows
    # The name of the file does not tell its format.
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=fps, macro_block_size=_MULTIPLE, output_params=["-f", "mp4"]
    )
    with contextlib.closing(writer):
        writer.send(None)
        for frame in itertools.chain([first], frames):
            if frame.shape != first.shape:
                raise InvalidConfig("draw", f"pictures of one size, {first.shape}, are needed, got {frame.shape}")
            writer.send(np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge"))
