"""Trainings of two processes beside one with all environments; see tests/models/ppo/test_learned_together.py."""

from __future__ import annotations

import functools
import logging
import os
import signal
from typing import Any
from unittest import mock

import torch
from contract_envs import MaskedDials
from faulty_envs import Ball
from torch import Generator, Tensor

from operant_gpu import VecEnv
from operant_gpu.envs import CartPole, Pendulum
from operant_gpu.models import PPO, PPOConfig, Processes, evaluate
from operant_gpu.models.ppo import rnd, update
from operant_gpu.models.ppo.loop import Loop
from operant_gpu.models.ppo.optimizer import Adam
from operant_gpu.models.ppo.rollout import Minibatch, Rollout, permutation
from operant_gpu.models.ppo.shares import seed_of
from operant_gpu.processes import present

NUM_ENVS, STEPS = 8, 32
# What is learned in how: by engine, those that the fused one has too come first.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mlp": (CartPole, {}),
    "gaussian": (Pendulum, {"vf_clip_eps": 0.2}),
    "masks": (MaskedDials, {"ent_coef": 0.01}),
    "normalized": (Pendulum, {"normalize_observations": True, "normalize_rewards": True}),
    "curious": (CartPole, {"rnd_coef": 0.1}),
    "target_kl": (CartPole, {"target_kl": 2e-4, "lr": 5e-3}),
    "plain advantages": (CartPole, {"normalize_advantages": False}),
    "gru": (CartPole, {"gru_size": 8, "batch_size": 4 * STEPS}),
}
FUSED = [name for name in CASES if name != "gru"]


def learner_of(
    name: str, processes: Processes | None = None, times: int = 1, device: str = "cpu", **settings: Any
) -> PPO:
    """Return a learner of some case, in `times` as many environments and with as many steps in a minibatch."""
    definition, own = CASES[name]
    usual = {"num_envs": NUM_ENVS, "n_steps": STEPS, "batch_size": 64, "n_epochs": 2, "hidden_sizes": (16,)}
    merged = {**usual, **own, **settings}
    merged["batch_size"] *= times
    merged["num_envs"] *= times
    env = VecEnv(definition, merged["num_envs"], device=device)
    return PPO(env, PPOConfig(**merged), processes=processes)


def in_double(learner: PPO) -> None:
    """Have a learner compute in float64, without the policy's casts to float32."""
    policy = learner.policy.double()

    def forward(obs: Tensor, state: Any, starts: Any) -> tuple[Tensor, Tensor, Any]:
        obs = obs.double() if policy.normalizer is None else policy.normalizer(obs.double())
        if state is None and starts is None:
            return (*policy.network(obs), None)
        outputs: tuple[Tensor, Tensor, Tensor] = policy.network(obs, state.double(), starts)
        return outputs

    for_environment = policy.distribution.for_environment
    policy.distribution.for_environment = lambda actions: _narrow(for_environment(actions))
    policy.forward = forward
    learner.optimizer = _Adam(policy.parameters(), learner.env.device)
    if learner.intrinsic is not None:
        learner.intrinsic.double()
        learner.intrinsic._optimizer = _Adam(learner.intrinsic.predictor.parameters(), learner.env.device)
    if learner.reward_normalizer is not None:
        learner.reward_normalizer.double()
    learner._loop = Loop(learner._make_update())


def _narrow(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


class _Adam(Adam):
    """Adam in float64, whose kernel takes the scale of gradients in float32 alone."""

    def step(self, lr: Any, norm: Any = None, max_norm: Any = 0.0, condition: Any = None) -> None:
        super().step(lr, None if norm is None else norm.float(), max_norm, condition)


def gradient_difference(name: str, engine: str, double: bool) -> float | None:
    """Return how far the mean of two gradients is from that of all samples at once, by its norm; in the first process.

    All are of the same stored rollouts.
    """
    one_step = {"n_epochs": 1, "batch_size": NUM_ENVS * STEPS, "engine": engine}
    learner = learner_of(name, **one_step)
    processes = learner.processes
    if double:
        in_double(learner)
    learner._begin()
    rollout = learner._loop.rollout
    learner._loop.update.collect(rollout)
    stored = {key: value for key, value in vars(rollout).items() if isinstance(value, Tensor)}
    rollouts = processes.gather_objects(stored)
    own = _gradient(learner, rollout)
    if processes.rank:
        return None
    whole = learner_of(name, Processes(), processes.size, **one_step)
    if double:
        in_double(whole)
    whole._begin()
    together = whole._loop.rollout
    for key, value in rollouts[0].items():
        axis = value.shape.index(NUM_ENVS) if key not in ("under_way", "reported") else 2
        getattr(together, key).copy_(torch.cat([one[key] for one in rollouts], axis))
    expected = _gradient(whole, together)
    return float((own - expected).norm() / expected.norm())


def _gradient(learner: PPO, rollout: Rollout) -> Tensor:
    """Return the gradient of the only step on a rollout, before it is clipped."""
    own, found = learner._loop.update, []
    if own.is_fused:
        own(rollout)
        return own._steps._sent[: learner.policy.mlp.layout.size].clone()
    norms = learner.optimizer.gradient_norms

    def noted() -> Tensor:
        found.append(torch.cat([one.flatten() for one in learner.optimizer.gradients()]))
        return norms()

    learner.optimizer.gradient_norms = noted
    own(rollout)
    return found[0]


def double_difference(name: str) -> float | None:
    """Return how far parameters are, after five iterations in float64, from those of one process; in the first."""
    learner = learner_of(name, engine="eager")
    in_double(learner)
    learner.learn(5 * STEPS * NUM_ENVS * learner.processes.size)
    if learner.processes.rank:
        return None
    whole = learner_of(name, Processes(), 2, engine="eager")
    in_double(whole)
    batches, orders = _draw_as_two(whole)
    with batches, orders:
        whole.learn(5 * STEPS * NUM_ENVS * 2)
    pairs = zip(learner.policy.parameters(), whole.policy.parameters(), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


def _draw_as_two(learner: PPO) -> tuple[Any, Any]:
    """Return contexts in which a learner draws as two with half of its environments each would."""
    generators = [Generator().manual_seed(seed_of(learner.config.seed, rank)) for rank in range(2)]
    act = learner.policy.act

    def halves(tensor: Tensor | None) -> list[Any]:
        return [None, None] if tensor is None else list(tensor.chunk(2))

    def act_twice(obs: Any, state: Any, starts: Any, mask: Any, _: Generator) -> Any:
        parts = [act(*own, generator) for *own, generator in zip(*map(halves, (obs, state, starts, mask)), generators)]
        return type(parts[0])(*(None if one[0] is None else torch.cat(one) for one in zip(*parts, strict=True)))

    learner.policy.act = act_twice

    def places(count: int, rows: int) -> list[Tensor]:
        """Return orders of each half's samples, as places among those of both."""
        orders = [permutation(count, generator) for generator in generators]
        return [order // rows * 2 * rows + rank * rows + order % rows for rank, order in enumerate(orders)]

    def minibatches(batch: Minibatch, batch_size: int, _: Generator) -> Any:
        is_flat = batch.state is None
        axis, count = (0, STEPS * NUM_ENVS) if is_flat else (1, NUM_ENVS)
        parts = count // (batch_size // 2 if is_flat else batch_size // 2 // STEPS)
        for both in zip(*(order.tensor_split(parts) for order in places(count, NUM_ENVS)), strict=True):
            yield batch.map(functools.partial(torch.index_select, dim=axis, index=torch.cat(both)))

    def of_curiosity(count: int, _: Generator) -> Tensor:
        orders = places(count // 2, NUM_ENVS)
        share = count // 2 // rnd._SHARE
        return torch.cat([*(order[:share] for order in orders), *(order[share:] for order in orders)])

    return mock.patch.multiple(update, minibatches=minibatches), mock.patch.object(rnd, "permutation", of_curiosity)


def learned(learner: PPO) -> list[Tensor]:
    """Return what processes have in common."""
    return [one.detach().clone() for one in learner._loop.update.learned()]


def train(name: str, engine: str, iterations: int, device: str = "cpu") -> tuple[list[Tensor], dict[str, float]]:
    """Return what is learned in some iterations, and the last metrics."""
    learner, seen = learner_of(name, device=device, engine=engine), []
    learner.learn(iterations * learner._steps_of(learner.config), seen.append)
    assert learner.engine == engine
    return [one.cpu() for one in learned(learner)], seen[-1]


def of_each(function: str, names: list[str], *arguments: Any) -> dict[str, Any]:
    """Return what a function of this module returns for each case: processes take a second to begin."""
    return {name: globals()[function](name, *arguments) for name in names}


def begin(path: str, name: str, engine: str, now: int, of: int) -> None:
    """Train for some iterations of a training, and save."""
    learner = learner_of(name, engine=engine)
    steps = learner._steps_of(learner.config)

    def stop(metrics: dict[str, float]) -> bool:
        return metrics["iterations"] < now

    learner.learn(of * steps, stop)
    learner.save(path)


def begin_and_be_killed(folder: str, name: str, engine: str, of: int) -> None:
    """Train with a checkpoint at the third iteration; the second process is killed after the fourth."""
    learner = learner_of(name, engine=engine, checkpoint_interval=3)
    learner.keep_checkpoints(folder)

    def die(metrics: dict[str, float]) -> None:
        if metrics["iterations"] == 4 and learner.processes.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    learner.learn(of * learner._steps_of(learner.config), die)


def go_on(path: str, iterations: int | None = None) -> tuple[Any, dict[str, Any], int, list[str]]:
    """Go on with what was saved; return what was learned, the environments' state and number, and what the log says."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("operant_gpu").addHandler(handler)
    logging.getLogger("operant_gpu").setLevel(logging.INFO)
    learner = PPO.load(path)
    last = learner.iterations + (iterations or 10**9)
    learner.resume(callback=lambda metrics: metrics["iterations"] < last)
    env = learner.env.state_dict()
    return learned(learner), env, learner.config.batch_size, lines


def play(path: str) -> tuple[Any, Any]:
    """Return the returns of episodes that processes share."""
    learner = PPO.load(path, processes=Processes())
    found = [evaluate(learner, 9, deterministic=one, processes=present()) for one in (True, False)]
    return found[0].returns, found[1].returns


def faults_of_one(on_fault: str | None) -> list[Tensor]:
    """Train on; from some iteration on the steps of one process go wrong. Return what has been learned."""
    env = VecEnv(Ball, NUM_ENVS, device="cpu", debug="faults", params={"kind": 0})
    settings = {"num_envs": NUM_ENVS, "n_steps": 4, "batch_size": 16, "hidden_sizes": (16,), "on_fault": on_fault}
    learner = PPO(env, PPOConfig(**settings))
    steps = 4 * NUM_ENVS * present().size
    learner.learn(steps)
    if present().rank == 1:
        env.state.height[:3] = 0.0
    learner.learn(3 * steps)
    return [parameter.detach() for parameter in learner.policy.parameters()]
