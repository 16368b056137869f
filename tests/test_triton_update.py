"""The fused gradient steps against autograd in float64, in Triton's interpreter."""

from __future__ import annotations

import copy
import types
from typing import Any, NamedTuple

import pytest
import torch
from conftest import INTERPRETED
from gymnasium import spaces
from torch import Tensor

if not INTERPRETED:
    pytest.skip("runs in Triton's interpreter", allow_module_level=True)

from operant_gpu.backends import triton_update
from operant_gpu.hyperparameters import FAULTY, STOPPED, Hyperparameters, StepTable
from operant_gpu.kernels.shuffle import permutation
from operant_gpu.models import MLPPolicy, PPOConfig
from operant_gpu.models.rollout import Batch, generalized_advantages
from operant_gpu.models.update import Update
from operant_gpu.spaces import action_layout

SEED, ITERATION = 5, 3
NAN = float("nan")


class Case(NamedTuple):
    """What an iteration has, with samples as kernels and as the reference see them."""

    policy: MLPPolicy
    config: PPOConfig
    settings: Hyperparameters
    actions: spaces.Space[Any]
    columns: tuple[Tensor | None, ...]  # obs, actions, log_probs, values, advantages, masks: (n_steps, num_envs, ...)
    batch: Batch  # in float64
    reference: MLPPolicy  # likewise


def case(
    actions: spaces.Space[Any],
    inputs: int = 4,
    size: tuple[int, int] = (3, 41),
    parts: int = 2,
    masked: bool = False,
    precision: str = "ieee",
    bytes_: bool = False,
    **changes: Any,
) -> Case:
    """Return an iteration of random samples, near what the policy would do."""
    generator = torch.Generator().manual_seed(0)

    def normals(*shape: int) -> Tensor:
        return torch.randn(*size, *shape, generator=generator)

    config = PPOConfig(**{"n_epochs": 2, "hidden_sizes": (16,), "ent_coef": 0.02, "seed": SEED, **changes})
    policy = MLPPolicy(spaces.Box(-1, 1, (inputs,)), actions, config, precision=precision)
    with torch.no_grad():
        policy.flat.add_(0.3 * torch.randn(policy.flat.shape, generator=generator))
    if policy.normalizer is not None:
        policy.normalizer.update(2.0 * normals(inputs) + 1.0)
    obs, layout = normals(inputs), action_layout(actions)
    if bytes_:
        obs = (obs > 0.0).to(torch.uint8)
    if layout.is_discrete:
        bounds = zip(layout.low, layout.high, strict=True)
        choices = [torch.randint(low, high, size, generator=generator) for low, high in bounds]
        drawn = torch.stack(choices, -1) if layout.shape else choices[0]
        counted = drawn - torch.tensor(layout.low if layout.shape else layout.low[0])
    else:
        counted = drawn = normals(*layout.shape)
    masks = None
    if masked:
        masks = normals(layout.num_actions) < 0.5
        for i, first in enumerate(layout.first_choices):
            masks[..., first:].scatter_(-1, counted.view(*size, -1)[..., i, None], True)
        # No action is legal: all are as likely.
        masks[0, 0] = False
    settings = Hyperparameters(
        *(config.clip_eps, config.vf_clip_eps, config.vf_coef, config.ent_coef, config.max_grad_norm),
        *(config.target_kl, config.normalize_advantages, config.n_epochs, parts),
    )
    reference = in_float64(policy)
    columns = (obs, counted, torch.zeros(size), normals(), 3.0 * normals() + 1.0, masks)
    flat = [None if column is None else column.flatten(0, 1) for column in columns]
    with torch.no_grad():
        log_probs = reference.evaluate(flat[0], flat[1], None, None, flat[5]).log_prob.float().view(size)
    log_probs += 0.2 * normals()
    if masked:
        log_probs[0, 0] = -1.5
    columns = (obs, drawn, log_probs, *columns[3:])
    values, advantages = flat[3], flat[4]
    batch = Batch(flat[0], flat[1], log_probs.flatten(), values, advantages, advantages + values, flat[5], None, None)
    batch = batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    return Case(policy, config, settings, actions, columns, batch, reference)


def in_float64(policy: MLPPolicy) -> MLPPolicy:
    """Return the policy without its casts to float32."""
    copied = copy.deepcopy(policy).double()

    def forward(self: MLPPolicy, obs: Tensor, state: None, starts: None) -> tuple[Tensor, Tensor, None]:
        obs = obs.double() if self.normalizer is None else self.normalizer(obs.double())
        return (*self.network(obs), None)

    copied.forward = types.MethodType(forward, copied)
    return copied


class Fused:
    """Kernels and the optimizer's memory, with NaN in all that they have yet to write."""

    def __init__(self, given: Case) -> None:
        self.case, samples = given, len(given.batch.obs)
        mlp = given.policy.mlp
        self.kernels = triton_update.Update(mlp, action_layout(given.actions), given.settings, samples)
        for value in vars(self.kernels).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                value.fill_(NAN)
        self.kernels._order.fill_(2**30)
        self.means, self.squares = torch.zeros(2, mlp.layout.size)
        self.count = torch.zeros(())
        self.trainable = torch.ones(len(mlp.layout.shapes), dtype=torch.bool)

    def run(self, status: int = 0) -> StepTable:
        obs, actions, log_probs, values, advantages, masks = self.case.columns
        return self.kernels.run(
            self.case.policy.mlp,
            *(obs, actions, log_probs, values, advantages, masks),
            seed=SEED,
            iteration=torch.tensor(ITERATION, dtype=torch.int32),
            means=self.means,
            squares=self.squares,
            count=self.count,
            lr=torch.tensor(1e-3),
            trainable=self.trainable,
            status=torch.tensor(status, dtype=torch.int32),
        )


class Reference(NamedTuple):
    """What PyTorch gets, in float64."""

    measured: Tensor
    norms: Tensor
    first_gradients: list[Tensor]
    parameters: Tensor


def by_autograd(given: Case) -> Reference:
    policy, config, settings = given.reference, given.config, given.settings
    objective = types.SimpleNamespace(policy=policy, config=config)
    parameters = list(policy.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-5)
    rows, norms, first = [], [], []
    for epoch in range(settings.n_epochs):
        order = torch.from_numpy(permutation(len(given.batch.obs), SEED, ITERATION, epoch)).long()
        for chosen in order.tensor_split(settings.parts):
            loss, measured = Update.objective(objective, given.batch.map(lambda t, rows=chosen: t[rows]))
            optimizer.zero_grad()
            loss.backward()
            gradients = [torch.zeros_like(own) if own.grad is None else own.grad for own in parameters]
            first = first or [gradient.clone() for gradient in gradients]
            norms.append(torch.stack([gradient.norm() for gradient in gradients]))
            total = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            rows.append(torch.cat([measured, total[None]]))
            optimizer.step()
    flat = torch.cat([own.detach().flatten() for own in parameters])
    return Reference(torch.stack(rows), torch.stack(norms), first, flat)


DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1.0, 1.0, (3,))
DIALS = spaces.MultiDiscrete([3, 4], start=[1, -2])
CASES: dict[str, dict[str, Any]] = {
    "64x64": {"hidden_sizes": (64, 64)},
    "odd": {
        "actions": spaces.Discrete(2, start=5),
        "inputs": 7,
        "size": (11, 31),
        "parts": 3,
        "hidden_sizes": (33, 5, 17),
        "activation": "relu",
    },
    "one_minibatch": {"inputs": 1, "size": (1, 37), "parts": 1, "hidden_sizes": (1,)},
    "no_layers": {"hidden_sizes": ()},
    "values_clipped": {"vf_clip_eps": 0.2},
    "shared": {"actions": BOX, "hidden_sizes": (20, 20), "shared_trunk": True, "normalize_observations": True},
    "gaussian": {"actions": BOX, "hidden_sizes": (20,), "normalize_observations": True, "log_std_init": -0.5},
    "masked": {"actions": DIALS, "masked": True, "normalize_advantages": False},
    "bytes": {"inputs": 40, "bytes_": True, "activation": "relu"},
}
every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every program several tiles, the last of which is not full."""
    monkeypatch.setattr(triton_update, "update_shape", lambda *_: triton_update.Shape(16, 4, 0))
    monkeypatch.setattr(triton_update, "_programs_at_once", lambda *_: 2)


@every_case
def test_ieee_gradients_are_those_of_autograd(options: dict[str, Any]) -> None:
    given = case(**{"actions": DISCRETE, **options, "parts": 1, "n_epochs": 1})
    fused, reference = Fused(given), by_autograd(given)
    fused.run()
    parts = fused.kernels._gradient.split([gradient.numel() for gradient in reference.first_gradients])
    for part, gradient in zip(parts, reference.first_gradients, strict=True):
        assert (part - gradient.flatten()).norm() <= 1e-5 * gradient.norm()


@every_case
def test_an_iteration_is_that_of_the_eager_loop(options: dict[str, Any]) -> None:
    given = case(**{"actions": DISCRETE, **options})
    fused, reference = Fused(given), by_autograd(given)
    table = fused.run()
    torch.testing.assert_close(table.norms.double(), reference.norms, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(table.measured.double(), reference.measured, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given.policy.flat.double(), reference.parameters, rtol=0.0, atol=2e-6)
    assert table.status.eq(0).all()
    assert fused.count == len(reference.norms)


@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "box"])
def test_tf32_gradients_are_near(actions: spaces.Space[Any]) -> None:
    given = case(actions, hidden_sizes=(64, 64), precision="tf32", parts=1, n_epochs=1)
    fused, reference = Fused(given), by_autograd(given)
    fused.run()
    expected = torch.cat([gradient.flatten() for gradient in reference.first_gradients])
    error = ((fused.kernels._gradient - expected).norm() / expected.norm()).item()
    # Were products not rounded to tf32, which the interpreter imitates, it would be below 1e-6.
    assert 1e-5 < error < 1e-3


def test_equal_seeds_give_equal_bits() -> None:
    runs = []
    for _ in range(2):
        given = case(BOX, hidden_sizes=(20,))
        Fused(given).run()
        runs.append(given.policy.flat.clone())
    assert torch.equal(*runs)


def test_a_policy_that_moved_too_far_stops() -> None:
    given = case(DISCRETE, target_kl=1e-3, n_epochs=3)
    fused = Fused(given)
    before = given.policy.flat.clone()
    table = fused.run()
    assert table.measured[0, 3] > 1.5e-3
    assert table.status.tolist() == [0] + [STOPPED] * 6
    assert fused.count == 0
    assert torch.equal(given.policy.flat, before)


def test_it_stops_where_pytorch_would() -> None:
    # At this distance, some steps are taken before.
    reference = by_autograd(case(DISCRETE, n_epochs=3))
    bounds = reference.measured[:, 3]
    target = float((bounds[0] + bounds.max()) / 2 / 1.5)
    stop = int((bounds > 1.5 * target).int().argmax())
    assert stop > 0
    fused = Fused(case(DISCRETE, n_epochs=3, target_kl=target))
    assert fused.run().status.tolist() == [0] * (stop + 1) + [STOPPED] * (6 - stop)
    assert fused.count == stop


@pytest.mark.parametrize("column", [0, 2, 3, 4], ids=["obs", "log_prob", "value", "advantage"])
def test_what_is_not_finite_moves_nothing(column: int) -> None:
    given = case(DISCRETE, n_epochs=1)
    given.columns[column][1, 2] = NAN
    fused = Fused(given)
    before = given.policy.flat.clone()
    table = fused.run()
    first_bad = int((~table.norms.isfinite()).any(1).int().argmax())
    assert (table.status[first_bad + 1 :] & FAULTY).all()
    assert fused.count == first_bad
    assert given.policy.flat.isfinite().all()
    assert fused.means.isfinite().all()
    assert first_bad > 0 or torch.equal(given.policy.flat, before)


def test_after_a_fault_nothing_moves() -> None:
    given = case(DISCRETE)
    fused = Fused(given)
    before = given.policy.flat.clone()
    assert fused.run(status=FAULTY).status.eq(FAULTY).all()
    assert torch.equal(given.policy.flat, before)


def test_frozen_tensors_stay_and_have_no_norm() -> None:
    given = case(DISCRETE)
    fused = Fused(given)
    fused.trainable[2] = False
    before = [view.clone() for view in given.policy.mlp.views()]
    table = fused.run()
    assert table.norms[:, 2].eq(0.0).all()
    changed = [not torch.equal(*pair) for pair in zip(before, given.policy.mlp.views(), strict=True)]
    assert changed == fused.trainable.tolist()


def some_flags(share: float, seed: int) -> Tensor:
    return torch.rand(13, 41, generator=torch.Generator().manual_seed(seed)) < share


def test_advantages_are_those_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(1)
    rewards, values, final = torch.randn(3, 13, 41, generator=generator)
    terminated, truncated = some_flags(0.1, 2), some_flags(0.1, 3)
    found = triton_update.estimate_advantages(rewards, values, final, terminated, truncated, 0.9, 0.8)
    ended = terminated | truncated
    is_last = torch.arange(13)[:, None] == 12
    following = torch.where(truncated | is_last, final, values.roll(-1, 0))
    columns = (rewards.double(), values.double(), following.double(), terminated, ended)
    torch.testing.assert_close(found.double(), generalized_advantages(*columns, 0.9, 0.8), rtol=1e-5, atol=1e-5)


def test_episodes_are_followed_from_those_under_way() -> None:
    rewards = torch.randn(13, 41, generator=torch.Generator().manual_seed(1))
    flags = some_flags(0.2, 2), some_flags(0.1, 3)
    first = torch.arange(41.0), torch.arange(41, dtype=torch.int32)
    found, expected = ((torch.full((13, 41), NAN), torch.full((13, 41), -1, dtype=torch.int32)) for _ in range(2))
    triton_update.follow_episodes(*found, rewards, *flags, first)
    total, length = first[0].clone(), first[1].clone()
    for step in range(13):
        total, length = total + rewards[step], length + 1
        expected[0][step], expected[1][step] = total, length
        ended = flags[0][step] | flags[1][step]
        total, length = total.masked_fill(ended, 0.0), length.masked_fill(ended, 0)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
