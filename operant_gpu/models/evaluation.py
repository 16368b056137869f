"""How good a policy is: returns of whole episodes, and how sure one can be of their mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, nn

from operant_gpu.errors import InvalidConfig, mapping, whole
from operant_gpu.models.contexts import plain, undisturbed
from operant_gpu.models.policies.controller import Controller
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo.learner import PPO
from operant_gpu.models.ppo.shares import seed_of
from operant_gpu.models.statistics import Numbers, bootstrap, interquartile_mean
from operant_gpu.processes import ALONE, EVALUATION, Processes
from operant_gpu.vector import VecEnv
from operant_gpu.vector.shares import part_of

# Steps after which an episode is cut, in environments without a limit of their own.
STEP_LIMIT = 10_000


@dataclass(frozen=True)
class Evaluation:
    """Episodes that a policy has played.

    Attributes:
        returns: Sum of rewards of each episode, (episodes,).
        lengths: Steps of each, (episodes,).
        cut: How many were cut after `STEP_LIMIT` steps, because their environment has no limit.
        metrics: What each of the environment's metrics came to, by name (episodes,).
    """

    returns: Numbers
    lengths: Numbers
    cut: int = 0
    metrics: Mapping[str, Numbers] = field(default_factory=dict)

    def __repr__(self) -> str:
        numbers = f"mean={self.mean:.4g}, std={self.std:.4g}, iqm={self.iqm:.4g}"
        return f"Evaluation(episodes={len(self.returns)}, {numbers}, cut={self.cut})"

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns."""
        return float(self.returns.std())

    @property
    def iqm(self) -> float:
        """Interquartile mean of the returns: that of the middle half, which no single episode can move far."""
        return float(interquartile_mean(self.returns))

    def interval(
        self, statistic: Callable[[Numbers], Numbers] | None = None, level: float = 0.95, seed: int = 0
    ) -> tuple[float, float]:
        """Return a confidence interval by the percentile bootstrap, over 2000 samples of as many episodes.

        Args:
            statistic: From (..., episodes) to (...); the interquartile mean if None.
            level: How often such intervals hold the truth.
            seed: Of the samples.

        Raises:
            InvalidConfig: If the level is not between 0 and 1, or another argument makes no sense.
        """
        if statistic is not None and not callable(statistic):
            raise InvalidConfig("statistic", f"expected a function of an array, or None, got {statistic!r}")
        low, high = bootstrap([self.returns], statistic or interquartile_mean, level, seed)
        return float(low), float(high)


def evaluate(
    learner: PPO,
    episodes: int = 100,
    *,
    deterministic: bool = True,
    seed: int = 1_000_000,
    params: Mapping[str, Any] | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Let a policy play whole episodes, in as many new environments, and leave the learner as it is.

    Each environment plays one: of those that are first to end, the short ones would count too often.

    Args:
        learner: What has the policy; its environments' definition, parameters and device are taken.
        episodes: How many.
        deterministic: Whether to take the likeliest actions rather than to sample.
        seed: Of environments and draws; other than the training's.
        params: Parameters and tables of the environment that are not to be the training's, by name, such as
            `{"gravity": 9.8}` where that drew them.
        processes: Those that share the episodes, such as `learner.processes`; all call this, and get all episodes.

    Raises:
        InvalidConfig: If an argument makes no sense, parameters make spaces that the policy does not know, or the
            memory does not hold so many environments.
    """
    check_learner(learner)
    whole("seed", seed, 0)
    episodes = whole("episodes", episodes, 1)
    rank, size = processes.rank, processes.size
    own = range(episodes)[rank * episodes // size : (rank + 1) * episodes // size]
    with undisturbed(learner.env.device):
        part = _play(learner, own, episodes, deterministic, seed_of(seed, rank), seed, params) if own else None
    if size == 1:
        assert part is not None
        return part
    processes.meet(EVALUATION)
    parts = [one for one in processes.gather_objects(part) if one is not None]
    return Evaluation(
        np.concatenate([one.returns for one in parts]),
        np.concatenate([one.lengths for one in parts]),
        sum(one.cut for one in parts),
        {name: np.concatenate([one.metrics[name] for one in parts]) for name in parts[0].metrics},
    )


def _play(
    learner: PPO,
    own: range,
    of_all: int,
    deterministic: bool,
    draws: int,
    seed: int,
    params: Mapping[str, Any] | None,
) -> Evaluation:
    """Play some of all episodes, each in the environment with its number."""
    episodes = len(own)
    env = sibling(learner, of_all, params, own, first_env_id=own.start)
    act = sibling_controller(learner, deterministic, draws)
    obs, info = env.reset(seed=seed)
    ended = None
    running = torch.ones(episodes, dtype=torch.bool, device=env.device)
    returns, lengths, *metrics = torch.zeros(2 + len(env.metric_sums), episodes, dtype=torch.float64, device=env.device)
    was_cut = torch.zeros_like(running)
    while running.any():
        obs, _, terminated, truncated, info = env.step(act(obs, ended, info.get("action_mask")))
        ended = terminated | truncated
        now = running & ended
        returns = torch.where(now, info["episode"]["r"].double(), returns)
        lengths = torch.where(now, info["episode"]["l"].double(), lengths)
        reported = zip(info.get("metrics", {}).values(), metrics, strict=True)
        metrics = [torch.where(now, value, kept) for value, kept in reported]
        was_cut |= now & ~terminated
        running &= ~ended
    named = dict(zip(env.metric_sums, (one.cpu().numpy() for one in metrics), strict=True))
    cut = 0 if learner.env.max_episode_steps is not None else int(was_cut.sum())
    return Evaluation(returns.cpu().numpy(), lengths.cpu().numpy(), cut, named)


@plain()
def copy_of(policy: Policy) -> Policy:
    """Return a copy of a policy that acts and does not learn, whatever its network does in training."""
    return copy.deepcopy(policy).eval().requires_grad_(False)


def check_learner(learner: Any) -> None:
    """Check that something is a learner."""
    if isinstance(learner, PPO):
        return
    expected, how = "expected a PPO (PPO.load reads one from a file)", ""
    # Their text would be that of the whole network.
    got = type(learner).__name__ if isinstance(learner, nn.Module) else repr(learner)
    if isinstance(learner, Policy):
        how = ": make one with PPO(env, config), and call its policy.load_state_dict(policy.state_dict())"
    elif isinstance(learner, nn.Module):
        how = ": PPO(env, PPOConfig(), network=module) has one whose forward(obs) returns (outputs, values)"
    raise InvalidConfig("learner", f"{expected}, got {got}{how}")


def sibling(
    learner: PPO,
    num_envs: int,
    params: Mapping[str, Any] | None = None,
    own: range | None = None,
    **settings: Any,
) -> VecEnv:
    """Return new environments like those of a learner, for episodes that end, with other parameters where given.

    Args:
        learner: Whose.
        num_envs: How many there are.
        params: The other parameters.
        own: Which of them to make; all if None.
        settings: Of `VecEnv`.

    Raises:
        InvalidConfig: If those make no sense, or make spaces that the policy does not know.
    """
    env = learner.env
    limit = env.max_episode_steps or STEP_LIMIT
    other = {} if params is None else mapping("params", params, "parameters")
    given = {**env.parameters(num_envs), **other}
    if own is not None:
        given = part_of(given, env.environment.params._fields, num_envs, own)
        num_envs = len(own)
    made = VecEnv(env.environment, num_envs, params=given, device=env.device, max_episode_steps=limit, **settings)
    for what, known, found in (
        ("observations", env.single_observation_space, made.single_observation_space),
        ("actions", env.single_action_space, made.single_action_space),
    ):
        # Bounds of a Box may differ: they clip what the policy draws.
        are_boxes = isinstance(known, spaces.Box) and isinstance(found, spaces.Box)
        if known != found and not (are_boxes and (known.shape, known.dtype) == (found.shape, found.dtype)):
            message = f"the policy has learned with {what} {known}, with {', '.join(other)} there are {found}"
            raise InvalidConfig("params", f"{message}: give what keeps them, or train another policy")
    return made


def sibling_controller(learner: PPO, deterministic: bool, seed: int) -> Controller:
    """Return a controller with a policy and draws of its own: the learner goes on as if it had not acted."""
    generator = Generator(learner.env.device).manual_seed(seed)
    return Controller(copy_of(learner.policy), learner.env.single_observation_space, generator, deterministic)
