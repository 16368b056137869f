"""Run kernels whose warps share environments on the executor, in random orders of warps, beside NumPy.

Run as a program: `python tests/support/races.py [CELLS ...]`, with boards of so many cells, 0 for a network without a
board. A race is an error by itself, and so are numbers that depend on the order. The last line is JSON: how many
launches of each kernel there were.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from ptx_executor.kernels import Executor
from ptx_executor.operant import install

import operant_gpu
from operant_gpu import Environment, VecEnv
from operant_gpu.arrays import cell, cells
from operant_gpu.lang import Array, jit, tl
from operant_gpu.models import MLPPolicy, PPOConfig
from operant_gpu.random import integers

# Two programs and more of every shape, the last of them not full.
NUM_ENVS, STEPS = 150, 4
SMALL = PPOConfig(hidden_sizes=(16,))


class BoardState(NamedTuple):
    board: Array(tl.int32, (1,))
    total: tl.int32


class BoardParams(NamedTuple):
    size: int = 1


@jit
def reset(rng, params):
    first = integers(rng, 0, 0, 9)
    return BoardState(cells(params.size) + first[:, None], first)


@jit
def step(state, action, rng, params):
    # Each cell shows what its warp has read of the numbers beside the board.
    total = state.total + action
    return BoardState(state.board + total[:, None], total), total.to(tl.float32), total % 5 == 0


@jit
def observe(state, params):
    if params.size == 1:
        return (cell(state.board, 0),)
    else:
        return (state.board,)


BOARD = Environment(
    id="Board-v0",
    state=BoardState,
    params=BoardParams,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=lambda params: spaces.Box(-np.inf, np.inf, (params.size,)),
    action_space=spaces.Discrete(3),
    max_episode_steps=3,
)


def of_size(size: int) -> Environment:
    """Return the environment with a board of `size` cells; one at a time, for the functions name one class."""
    BoardState.__annotations__["board"] = Array(tl.int32, (size,))
    return dataclasses.replace(BOARD)


def shown(env: VecEnv, actions: torch.Tensor) -> list[torch.Tensor]:
    """Take steps and a rollout; return all that came of them."""
    env.reset(seed=3)
    found = []
    for chosen in actions:
        obs, reward, terminated, truncated, info = env.step(chosen)
        found += [obs, reward, terminated, truncated, info["final_obs"], info["episode"]["r"], info["episode"]["l"]]
        if env.autoreset_mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": terminated | truncated})
        found = [tensor.clone() for tensor in found]
    stored = env.rollout(STEPS, actions, out=["obs", "reward", "terminated", "truncated", "final_obs"])
    found += [*stored.values(), *env.rollout(STEPS, "random", out=["obs", "action", "reward"]).values()]
    # Threads of a program wait for each other where observations are stored at every step: here they do not.
    env.reset(seed=4)
    env.rollout(STEPS)
    columns = env.state_dict()
    return [*found, *columns["state"].values(), *columns["columns"].values()]


def compare_board(size: int, mode: AutoresetMode) -> None:
    """Compare steps, resets and rollouts with NumPy's, where all numbers are integers."""
    actions = torch.from_numpy(np.random.default_rng(size).integers(0, 3, (STEPS, NUM_ENVS)))
    make = of_size(size)
    expected, found = (
        shown(make(NUM_ENVS, device="cpu", backend=backend, autoreset_mode=mode, size=size), actions)
        for backend in ("numpy", "triton")
    )
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        wrong = int((one != other).sum())
        assert wrong == 0, f"{size} cells, {mode.name}: tensor {number} is wrong in {wrong} of {one.numel()} places"
    if size > 1:
        # Draws of a network that PyTorch evaluates.
        env = make(NUM_ENVS, device="cpu", backend="triton", autoreset_mode=mode, size=size)
        env.reset(seed=1)
        env.rollout(STEPS, MLPPolicy(env.single_observation_space, env.single_action_space, SMALL), out=["log_prob"])


def compare_network(mode: AutoresetMode) -> None:
    """Take rollouts in which a network acts; they must be the steps that their actions stand for."""
    settings = {"device": "cpu", "backend": "triton", "autoreset_mode": mode, "max_episode_steps": STEPS - 1}
    env, reference = (operant_gpu.make("CartPole-v1", NUM_ENVS, **settings) for _ in range(2))
    env.reset(seed=1)
    # Some poles fall at once.
    env.state.theta.copy_(torch.linspace(-0.25, 0.25, NUM_ENVS))
    reference.load_state_dict(env.state_dict())
    policy = MLPPolicy(env.single_observation_space, env.single_action_space, SMALL)
    names = ["obs", "action", "reward", "terminated", "truncated", "final_obs", "log_prob", "value", "final_value"]
    stored = env.rollout(STEPS, policy, out=names)
    steps = reference.rollout(STEPS, stored["action"], out=names[:1] + names[2:6])
    assert all(torch.equal(stored[name], tensor) for name, tensor in steps.items()), mode
    with torch.no_grad():
        following = policy.value(stored["final_obs"].flatten(0, 1), None, None).view(STEPS, -1)
    is_cut = stored["truncated"] & ~stored["terminated"]
    assert 0 < is_cut.sum() < NUM_ENVS
    torch.testing.assert_close(stored["final_value"][is_cut], following[is_cut], rtol=0, atol=0.01)
    assert not stored["final_value"][:-1][~is_cut[:-1]].any()


if __name__ == "__main__":
    driver = install(Executor(schedule=1))
    for mode in AutoresetMode:
        for size in map(int, sys.argv[1:] or [0, 1, 2, 7, 16, 17, 33, 100, 128, 200]):
            compare_board(size, mode) if size else compare_network(mode)
    print(json.dumps(Counter(name for name, *_ in driver.launches)))
