"""Actions of a Box in the policy's units and in the environment's: what is taken, stored, predicted and exported."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors
from gymnasium import spaces
from network_rollouts import assert_network_rollout
from rollouts import Policy, make_network, output_names

import operant_gpu
from operant_gpu import Environment, VecEnv
from operant_gpu.lang import jit, tl
from operant_gpu.models import PPO, MLPPolicy, PPOConfig, evaluate
from operant_gpu.random import uniform
from operant_gpu.spaces import action_layout

INF, HUGE = math.inf, 3e38
BOXES: dict[str, tuple[list[float], list[float]]] = {
    "unit": ([-1, -1], [1, 1]),
    "far": ([100, 100], [200, 200]),
    "narrow": ([-0.01, -0.01], [0.01, 0.01]),
    "uneven": ([0, -5], [1, 1000]),
    "half bounded": ([0, -INF], [INF, 1]),
    "unbounded": ([-INF, -INF], [INF, INF]),
    "mixed": ([-INF, 100], [INF, 200]),
    "single": ([2, -1], [2, 3]),
    "huge": ([-HUGE, 0], [HUGE, HUGE]),
    "least": ([0, -1e-45], [1e-45, 1e-45]),
}
# Center and radius of each component, worked out by hand.
SCALINGS: dict[str, tuple[list[float], list[float]]] = {
    "unit": ([0, 0], [1, 1]),
    "far": ([150, 150], [50, 50]),
    "narrow": ([0, 0], [0.01, 0.01]),
    "uneven": ([0.5, 497.5], [0.5, 502.5]),
    "half bounded": ([0, 0], [1, 1]),
    "unbounded": ([0, 0], [1, 1]),
    "mixed": ([0, 150], [1, 50]),
    "single": ([0, 1], [1, 2]),
    "huge": ([0, HUGE / 2], [HUGE, HUGE / 2]),
    # Half of the least number is none.
    "least": ([0, 0], [1, 1e-45]),
}
NAMES = pytest.mark.parametrize("name", BOXES)


class Taken(NamedTuple):
    noise: tl.float32
    x: tl.float32
    y: tl.float32


@jit
def reset(rng, params):
    return Taken(uniform(rng, 0), 0.0, 0.0)


@jit
def step(state, action, rng, params):
    # Nothing clips here: what an environment is given decides its future.
    return Taken(uniform(rng, 0), action[0], action[1]), 0.25 * action[0] + 0.25 * action[1], False


@jit
def observe(state, params):
    return (state.noise,)


def environment(name: str) -> Environment:
    low, high = (np.array(bound, np.float32) for bound in BOXES[name])
    return Environment(
        id=f"Taken{name.title().replace(' ', '')}-v0",
        state=Taken,
        reset=reset,
        step=step,
        observe=observe,
        observation_space=spaces.Box(0.0, 1.0, (1,)),
        action_space=spaces.Box(low, high),
        max_episode_steps=3,
    )


def started(name: str, backend: str, num_envs: int = 41) -> VecEnv:
    env = environment(name)(num_envs, device="cpu", backend=backend)
    env.reset(seed=3)
    return env


def policy_of(env: VecEnv, **changes: Any) -> MLPPolicy:
    return MLPPolicy(env.single_observation_space, env.single_action_space, PPOConfig(hidden_sizes=(8,), **changes))


def skip_in_triton(backend: str, name: str, *kept: str) -> None:
    if backend == "triton" and name not in kept:
        pytest.skip("numbers are constants of one kernel, which takes seconds to compile")


@NAMES
def test_the_scaling_is_worked_out_by_hand(name: str) -> None:
    layout = action_layout(environment(name).spaces(environment(name).make_params({}))[1])
    low, high = (tuple(np.array(bound, np.float32).tolist()) for bound in BOXES[name])
    scaling = layout.scaling(True)
    assert scaling[:2] == (low, high)
    for found, expected in zip(scaling[2:], SCALINGS[name], strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    assert layout.scaling(False) == (low, high, (0.0, 0.0), (1.0, 1.0))


@pytest.mark.quick
@pytest.mark.parametrize("scales_actions", [True, False])
# The least numbers have too few digits for a comparison with float64.
@pytest.mark.parametrize("name", [name for name in BOXES if name != "least"])
def test_rollouts_take_what_is_drawn_within_the_bounds(name: str, backend: str, scales_actions: bool) -> None:
    skip_in_triton(backend, name, "mixed", "uneven" if scales_actions else "")
    env, reference, again = (started(name, backend) for _ in range(3))
    network = make_network(env, scales_actions=scales_actions)
    stored = assert_network_rollout(env, reference, network)
    taken, drawn = stored["action"], stored["policy_action"]
    for place, column in enumerate((env.state.x, env.state.y)):
        # The last of eight steps ends no episode of three.
        assert torch.equal(column, taken[-1, :, place])
    plan = again.rollout(len(taken), taken, output_names(again))
    assert_same_tensors(plan, {key: stored[key] for key in plan})
    # What the eager engine takes, and rewards of one's own are shown, to the bit.
    policy = policy_of(env, scale_actions=scales_actions)
    assert torch.equal(policy.distribution.for_environment(drawn), taken)


@NAMES
def test_what_is_drawn_beyond_all_bounds_is_a_bound(name: str, backend: str) -> None:
    """Also an infinite number, where there is a bound; where there is none, the step refuses it."""
    skip_in_triton(backend, name, "mixed", "single")
    env = started(name, backend)
    network = make_network(env)
    *_, log_std = network.views()
    network.views()[2].zero_()
    log_std.zero_()
    low, high = (torch.tensor(bound, dtype=torch.float32) for bound in BOXES[name])
    for drawn, bound in ((HUGE, high), (-HUGE, low), (INF, high), (-INF, low)):
        network.views()[3].fill_(drawn)
        found = env.rollout(1, Policy(network), ["action"])["action"][0]
        is_bound = bound.isfinite()
        assert torch.equal(found[:, is_bound], bound[is_bound].expand(len(found), -1))
        assert (found >= low).all()
        assert (found <= high).all()
        if found.isinf().any():
            with pytest.raises(operant_gpu.ActionError, match=r"^41 actions outside"):
                env.check()
        env.check()


@pytest.mark.parametrize("name", ["far", "uneven", "mixed"])
def test_whoever_acts_gives_the_environments_units(name: str, tmp_path: Path) -> None:
    """Predictions, controllers, evaluations and exports, beside the map worked out by hand."""
    made = environment(name)
    if made.id not in operant_gpu.list_envs():
        operant_gpu.register(made)
    learner = PPO(made(8, device="cpu"), PPOConfig(n_steps=4, hidden_sizes=(8,), engine="eager")).learn(64)
    obs = torch.linspace(0, 1, 9)[:, None]
    center, radius = (torch.tensor(numbers) for numbers in SCALINGS[name])
    low, high = (torch.tensor(bound, dtype=torch.float32) for bound in BOXES[name])
    with torch.no_grad():
        expected = (center + radius * learner.policy(obs, None, None)[0]).clamp(low, high)
    for acting in (learner.predict, learner.controller()):
        torch.testing.assert_close(acting(obs), expected)
    drawn = learner.predict(obs, deterministic=False)
    assert ((drawn >= low) & (drawn <= high)).all()
    for suffix in (".pt2", ".onnx"):
        operant_gpu.models.export(learner, tmp_path / f"policy{suffix}")
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    of_onnx = map(torch.as_tensor, session.run(None, {"obs": obs.numpy()}))
    for action, means, _ in (torch.export.load(tmp_path / "policy.pt2").module()(obs), of_onnx):
        torch.testing.assert_close(action, expected)
        # The distribution stays in the policy's units.
        torch.testing.assert_close((center + radius * means).clamp(low, high), expected)
    returns = evaluate(learner, 4).returns
    assert np.abs(returns - 3 * 0.25 * expected.sum(1).mean().item()).max() < 0.2 * np.abs(returns).max()
    learner.save(tmp_path / "learner.pt")
    loaded = PPO.load(tmp_path / "learner.pt", device="cpu")
    assert torch.equal(loaded.predict(obs), learner.predict(obs))
    with pytest.raises(
        operant_gpu.InvalidConfig, match=r"^scale_actions: .* was trained with True, got False: set scale_actions=True"
    ):
        PPO.load(tmp_path / "learner.pt", config=replace(learner.config, scale_actions=False), device="cpu")


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_rewards_of_ones_own_see_both_units(engine: str) -> None:
    seen = {}

    class Watching(operant_gpu.models.IntrinsicReward):
        def forward(self, rollout: Any, generator: torch.Generator) -> torch.Tensor:
            seen.update(action=rollout.action.clone(), policy_action=rollout.policy_action.clone())
            return torch.zeros_like(rollout.reward)

    config = PPOConfig(n_steps=4, batch_size=8, hidden_sizes=(8,), engine=engine)
    env = environment("uneven")(8, device="cpu", max_episode_steps=-1)
    PPO(env, config, intrinsic=Watching()).learn(32)
    center, radius = (torch.tensor(numbers) for numbers in SCALINGS["uneven"])
    low, high = (torch.tensor(bound, dtype=torch.float32) for bound in BOXES["uneven"])
    torch.testing.assert_close(seen["action"], (center + radius * seen["policy_action"]).clamp(low, high))
    assert torch.equal(torch.stack([env.state.x, env.state.y], -1), seen["action"][-1])


@pytest.mark.parametrize("name", ["far", "unbounded"])
def test_a_policy_that_is_given_acts_in_the_learners_units(name: str) -> None:
    env = environment(name)(8, device="cpu")
    learner = PPO(env, PPOConfig(n_steps=4, hidden_sizes=(8,)))
    learner.policy = policy_of(environment("narrow")(1, device="cpu"))
    with pytest.raises(operant_gpu.InvalidConfig, match=r"^policy: it acts in other bounds or units"):
        learner.learn(32)
    learner.policy = policy_of(env, scale_actions=False)
    if name == "unbounded":
        # There both are the same.
        assert learner.learn(32).timesteps == 32
        return
    with pytest.raises(operant_gpu.InvalidConfig, match=r"^policy: it acts in other bounds or units: make it with"):
        learner.learn(32)
