"""Iterations of random samples, as the fused kernels and as autograd in float64 take their gradient steps."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from contract_envs import assert_same_tensors
from gymnasium import spaces
from torch import Tensor

from operant_gpu import VecEnv
from operant_gpu.hyperparameters import AdamState, Samples, StepTable, minibatches_of
from operant_gpu.kernels.triton.shuffle import permutation
from operant_gpu.models import PPO, MLPPolicy, PPOConfig
from operant_gpu.models.policies.normalization import ObservationNormalizer
from operant_gpu.models.ppo import rollout as rollouts
from operant_gpu.models.ppo.rollout import Minibatch
from operant_gpu.models.ppo.schedules import Schedules
from operant_gpu.models.ppo.update import objective
from operant_gpu.processes import ALONE, Processes
from operant_gpu.spaces import action_layout
from operant_gpu.verification.learning import in_float64

SEED, ITERATION = 5, 3
NAN = float("nan")


class Case(NamedTuple):
    """What an iteration has, with samples as kernels and as the reference see them."""

    policy: MLPPolicy
    config: PPOConfig
    actions: spaces.Space[Any]
    columns: tuple[Tensor | None, ...]  # obs, actions, log_probs, values, advantages, masks: (n_steps, num_envs, ...)
    batch: Minibatch  # in float64
    reference: MLPPolicy  # likewise


def case(
    actions: spaces.Space[Any],
    inputs: int = 4,
    size: tuple[int, int] = (3, 41),
    minibatches: int = 2,
    masked: bool = False,
    precision: str = "ieee",
    bytes_: bool = False,
    obs_start: int | None = None,
    device: str = "cpu",
    **changes: Any,
) -> Case:
    """Return an iteration of random samples, near what the policy would do."""
    generator = torch.Generator().manual_seed(0)

    def normals(*shape: int) -> Tensor:
        return torch.randn(*size, *shape, generator=generator)

    settings = {"n_epochs": 2, "hidden_sizes": (16,), "lr": 1e-3, "ent_coef": 0.02, "seed": SEED}
    config = PPOConfig(**{**settings, "batch_size": size[0] * size[1] // minibatches, **changes})
    seen = spaces.Box(-1, 1, (inputs,)) if obs_start is None else spaces.Discrete(inputs, start=obs_start)
    policy = MLPPolicy(seen, actions, config, precision=precision)
    with torch.no_grad():
        policy.flat.add_(0.3 * torch.randn(policy.flat.shape, generator=generator))
    if isinstance(policy.normalizer, ObservationNormalizer):
        policy.normalizer.update(2.0 * normals(inputs) + 1.0)
    obs, layout = normals(inputs), action_layout(actions)
    if obs_start is not None:
        obs = obs_start + torch.randint(inputs, size, generator=generator)
    if bytes_:
        obs = (obs > 0.0).to(torch.uint8)
    if layout.is_discrete:
        bounds = zip(layout.low, layout.high, strict=True)
        choices = [torch.randint(low, high, size, generator=generator) for low, high in bounds]
        drawn = torch.stack(choices, -1) if layout.shape else choices[0]
    else:
        drawn = normals(*layout.shape)
    masks = None
    if masked:
        masks = normals(layout.num_actions) < 0.5
        for i, (first, low) in enumerate(zip(layout.first_choices, layout.low, strict=True)):
            masks[..., first:].scatter_(-1, drawn.view(*size, -1)[..., i, None] - low, True)
        # No action is legal: all are as likely.
        masks[0, 0] = False
    reference = in_float64(policy)
    columns = (obs, drawn, torch.zeros(size), normals(), 3.0 * normals() + 1.0, masks)
    flat = [None if column is None else column.flatten(0, 1) for column in columns]
    with torch.no_grad():
        log_probs = reference.evaluate(flat[0], flat[1], None, None, flat[5]).log_prob.float().view(size)
    log_probs += 0.2 * normals()
    if masked:
        log_probs[0, 0] = -1.5
    columns = (*columns[:2], log_probs, *columns[3:])
    values, advantages = flat[3], flat[4]
    batch = Minibatch(
        flat[0], flat[1], log_probs.flatten(), values, advantages, advantages + values, flat[5], None, None
    )
    batch = batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    columns = tuple(None if column is None else column.to(device) for column in columns)
    return Case(policy.to(device), config, actions, columns, batch, reference)


def hyperparameters(device: str = "cpu", **settings: Any) -> Tensor:
    """Return hyperparameters as kernels read them."""
    return Schedules(PPOConfig(**settings), {}, 1, torch.device(device)).values


class Fused:
    """Kernels and the optimizer's memory, with NaN in all that they have yet to write."""

    def __init__(self, given: Case, module: Any, processes: Processes = ALONE) -> None:
        self.case, mlp = given, given.policy.mlp
        asked = mlp, action_layout(given.actions), given.config, self.samples
        if misfit := module.find_misfit(*asked):
            pytest.skip(f"on this device: {misfit}")
        self.kernels = module.GradientSteps(*asked, self.samples.log_prob.numel(), processes)
        for value in vars(self.kernels).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                value.fill_(NAN)
        if hasattr(self.kernels, "_order"):
            self.kernels._order.fill_(2**30)
        self.device = mlp.parameters.device
        self.means, self.squares = torch.zeros(2, mlp.layout.size, device=self.device)
        self.count = torch.zeros((), device=self.device)
        self.hyperparameters = Schedules(given.config, {}, 1, self.device)
        self.trainable = torch.ones(len(mlp.layout.shapes), dtype=torch.bool, device=self.device)

    @property
    def samples(self) -> Samples:
        obs, actions, log_probs, values, advantages, masks = self.case.columns
        return Samples(obs, actions, masks, log_probs, values, advantages)

    def run(self, status: int = 0) -> StepTable:
        return self.kernels.run(
            self.case.policy.mlp,
            self.samples,
            AdamState(self.means, self.squares, self.count),
            self.hyperparameters.values,
            seed=SEED,
            iteration=torch.tensor(ITERATION, dtype=torch.int32, device=self.device),
            trainable=self.trainable,
            status=torch.tensor(status, dtype=torch.int32, device=self.device),
        )

    def gradient_of_first_step(self) -> Tensor:
        """Return what the optimizer's first means came of, before it was clipped."""
        norm = self.run().norms[0].double().norm().cpu()
        scale = max(1.0, (float(norm) + 1e-6) / float(self.hyperparameters.now.max_grad_norm))
        return self.means.cpu().double() * 10.0 * scale


class Reference(NamedTuple):
    """What PyTorch gets, in float64."""

    measured: Tensor
    norms: Tensor
    first_gradients: list[Tensor]
    parameters: Tensor


def by_autograd(given: Case, minibatches: Iterable[Tensor] | None = None) -> Reference:
    """Return what PyTorch gets from some minibatches, or from those that one process takes."""
    policy, config, parameters = given.reference, given.config, list(given.reference.parameters())
    now = Schedules(config, {}, 1, torch.device("cpu")).now
    optimizer = torch.optim.Adam(parameters, lr=float(now.lr), eps=1e-5)
    rows, norms, first = [], [], []
    for chosen in minibatches_of_one(given) if minibatches is None else minibatches:
        batch = given.batch.map(lambda t, rows=chosen: t[rows])
        loss, measured = objective(policy, now, batch, config.normalize_advantages)
        optimizer.zero_grad()
        loss.backward()
        gradients = [torch.zeros_like(own) if own.grad is None else own.grad for own in parameters]
        first = first or [gradient.clone() for gradient in gradients]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]))
        total = torch.nn.utils.clip_grad_norm_(parameters, float(now.max_grad_norm))
        rows.append(torch.cat([measured, total[None]]))
        optimizer.step()
    flat = torch.cat([own.detach().flatten() for own in parameters])
    return Reference(torch.stack(rows), torch.stack(norms), first, flat)


def minibatches_of_one(given: Case, rank: int = 0) -> Iterator[Tensor]:
    """Yield the places of each step's samples."""
    count = given.columns[2].numel()
    for epoch in range(given.config.n_epochs):
        order = torch.from_numpy(permutation(count, SEED, ITERATION, epoch, rank)).long()
        yield from order.tensor_split(minibatches_of(given.config, count))


def dealt_out(given: Case, rank: int, size: int) -> Case:
    """Return what one of `size` processes has of a case: some of the environments, and a policy of its own."""
    columns = tuple(None if one is None else one.chunk(size, 1)[rank].contiguous() for one in given.columns)
    config = replace(given.config, batch_size=given.config.batch_size // size)
    return given._replace(policy=copy.deepcopy(given.policy), config=config, columns=columns)


def minibatches_of_all(parts: Sequence[Case]) -> Iterator[Tensor]:
    """Yield the places of each step's samples, of all processes, among the samples of all."""
    of_each = parts[0].columns[2].shape[1]
    for chosen in zip(*(minibatches_of_one(part, rank) for rank, part in enumerate(parts)), strict=True):
        rows = (places // of_each * of_each * len(parts) + places % of_each for places in chosen)
        yield torch.cat([one + rank * of_each for rank, one in enumerate(rows)])


class InTurns(Processes):
    """Processes that are threads, of which one runs at a time, until it needs what the others have."""

    def __init__(self, rank: int, turns: list[threading.Semaphore], given: list[list[Tensor]]) -> None:
        self.rank, self.size, self._turns, self._given, self._count = rank, len(turns), turns, given, 0

    def gather(self, tensor: Tensor) -> Tensor:
        self._given[self.rank].append(tensor.clone())
        self.pass_on()
        rows = torch.stack([own[self._count] for own in self._given])
        self._count += 1
        return rows

    def average(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            tensor.copy_(self.gather(tensor).mean(0))

    def pass_on(self) -> None:
        self._turns[(self.rank + 1) % self.size].release()
        self._turns[self.rank].acquire()


def in_turns(function: Callable[[Processes], Any], size: int = 2) -> list[Any]:
    """Return what a function returns for each of some processes."""
    turns, given = [threading.Semaphore(0) for _ in range(size)], [[] for _ in range(size)]
    found: list[Any] = [None] * size

    def run(processes: InTurns) -> None:
        turns[processes.rank].acquire()
        try:
            found[processes.rank] = function(processes)
        except BaseException as error:
            found[processes.rank] = error
        turns[(processes.rank + 1) % size].release()

    threads = [threading.Thread(target=run, args=(InTurns(rank, turns, given),)) for rank in range(size)]
    for thread in threads:
        thread.start()
    turns[0].release()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1.0, 1.0, (3,))
DIALS = spaces.MultiDiscrete([3, 4], start=[1, -2])
CASES: dict[str, dict[str, Any]] = {
    "64x64": {"hidden_sizes": (64, 64)},
    "odd": {
        "actions": spaces.Discrete(2, start=5),
        "inputs": 7,
        "size": (11, 31),
        "minibatches": 3,
        "hidden_sizes": (33, 5, 17),
        "activation": "relu",
    },
    "one_minibatch": {"inputs": 1, "size": (1, 37), "minibatches": 1, "hidden_sizes": (1,)},
    "no_layers": {"hidden_sizes": ()},
    "values_clipped": {"vf_clip_eps": 0.2},
    "shared": {"actions": BOX, "hidden_sizes": (20, 20), "shared_trunk": True, "normalize_observations": True},
    "gaussian": {"actions": BOX, "hidden_sizes": (20,), "normalize_observations": True, "log_std_init": -0.5},
    "masked": {"actions": DIALS, "masked": True, "normalize_advantages": False},
    "discrete": {"inputs": 7, "obs_start": -3, "hidden_sizes": (20,)},
    "bytes": {"inputs": 40, "bytes_": True, "activation": "relu"},
}


def gradient_errors(given: Case, found: Tensor, reference: Reference) -> dict[str, float]:
    """Return the relative error of each parameter tensor's gradient, by its name and shape."""
    parts = found.cpu().split([gradient.numel() for gradient in reference.first_gradients])
    names = [f"{name} {tuple(own.shape)}" for name, own in given.policy.named_parameters()]
    return {
        name: float((part - gradient.flatten()).norm() / gradient.norm())
        for name, part, gradient in zip(names, parts, reference.first_gradients, strict=True)
    }


def assert_gradients_near(given: Case, found: Tensor, reference: Reference, bound: float) -> None:
    """Compare the gradients of the first step."""
    errors = gradient_errors(given, found, reference)
    # Not `error >= bound`: it may be NaN.
    wrong = {name: error for name, error in errors.items() if not error < bound}
    assert not wrong, f"relative errors of gradients, expected below {bound:g}: {wrong}"


def assert_same_iteration(fused: Fused, table: StepTable, reference: Reference) -> None:
    """Compare a whole iteration, over which rounding adds up."""
    near = {"norms": (table.norms, reference.norms, 1e-6), "measured": (table.measured, reference.measured, 1e-5)}
    for name, (found, expected, atol) in near.items():
        # 1e-4 of the number.
        assert_same_tensors({name: found.float()}, {name: expected.float()}, ulps=1_000, atol=atol)
    found = fused.case.policy.flat.detach()
    assert_same_tensors({"parameters": found}, {"parameters": reference.parameters.float()}, atol=2e-6)
    assert table.status.eq(0).all(), f"status words, expected zeros: {table.status.tolist()}"
    assert fused.count == len(reference.norms)


def assert_learns_as_eager(make: Callable[[], VecEnv], config: PPOConfig, patch: pytest.MonkeyPatch) -> PPO:
    """Compare the second iteration of the fused engine with that of the eager loop on the same steps.

    Products are float32's: those of tf32 would be told from wrong ones at bounds of 2e-2 alone.
    """
    learner = PPO(make(), config)
    learner.policy.precision = "ieee"
    env = learner.env
    samples = config.n_steps * env.num_envs
    learner.learn(samples)
    eager = PPO(make(), replace(config, engine="eager"))
    eager.policy.load_state_dict(learner.policy.state_dict())
    eager.optimizer.load_state_dict(learner.optimizer.state_dict())
    learner._begin()
    learner._loop.update.collect(learner._loop.rollout)
    for one in (learner, eager):
        # As the second of four iterations has them.
        one.hyperparameters.begin(4, 1)
        one.hyperparameters.advance()
    rollout, rewards = learner._loop.rollout, learner._loop.rollout.reward
    advantages = learner._loop.update.estimate(rollout, rewards)
    expected = eager._loop.update.estimate(rollout, rewards)
    assert_same_tensors({"advantages": advantages}, {"advantages": expected}, ulps=1_000, atol=1e-4)
    orders = [permutation(samples, config.seed, iteration=1, epoch=epoch) for epoch in range(config.n_epochs)]
    unused = iter([torch.from_numpy(order).long().to(env.device) for order in orders])
    patch.setattr(rollouts, "permutation", lambda size, generator: next(unused))
    for one in (learner, eager):
        one._loop.update.climb(rollout, advantages)
    assert_same_tensors({"parameters": learner.policy.flat}, {"parameters": eager.policy.flat}, atol=1e-4)
    measured = [{"measured": one._telemetry._steps} for one in (learner, eager)]
    assert_same_tensors(*measured, ulps=1_000, atol=1e-4)
    # Weights that differ by rounding give gradients that do.
    means = [{"means of gradients": one.optimizer.means} for one in (learner, eager)]
    assert_same_tensors(*means, ulps=10_000, atol=5e-5)
    return learner
