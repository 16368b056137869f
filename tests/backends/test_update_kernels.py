"""The fused gradient steps against autograd in float64: in C++, and in Triton."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gymnasium import spaces
from here import HAS_TRITON
from torch import Tensor
from updates import (
    BOX,
    CASES,
    DISCRETE,
    NAN,
    Fused,
    assert_gradients_near,
    assert_same_iteration,
    by_autograd,
    case,
    dealt_out,
    gradient_errors,
    hyperparameters,
    in_turns,
    minibatches_of_all,
)

from operant_gpu.backends.cpp import update as cpp_update
from operant_gpu.hyperparameters import FAULTY, STOPPED, StepTable
from operant_gpu.models.ppo.rollout import generalized_advantages
from operant_gpu.processes import Processes

every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
# One of each kind of actions.
QUICK = ("64x64", "gaussian", "masked")


@pytest.fixture(params=["cpp", "triton"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if (request.param == "triton") is not HAS_TRITON:
        pytest.skip("Triton has processes of its own")
    if request.param == "cpp":
        return cpp_update
    from operant_gpu.backends.triton import update as triton_update

    # Give every program several tiles, the last of which is not full.
    monkeypatch.setattr(triton_update, "find_fit", lambda *_: triton_update.Fit(triton_update.Shape(16, 4), 0))
    monkeypatch.setattr(triton_update, "_programs_at_once", lambda *_: 4)
    return triton_update


@every_case
def test_ieee_gradients_are_those_of_autograd(kernels: Any, options: dict[str, Any]) -> None:
    given = case(**{"actions": DISCRETE, **options, "minibatches": 1, "n_epochs": 1})
    fused = Fused(given, kernels)
    assert_gradients_near(given, fused.gradient_of_first_step(), by_autograd(given), 1e-5)


@pytest.mark.parametrize(
    "options",
    [pytest.param(case, id=name, marks=[pytest.mark.quick] * (name in QUICK)) for name, case in CASES.items()],
)
def test_an_iteration_is_that_of_the_eager_loop(kernels: Any, options: dict[str, Any]) -> None:
    given = case(**{"actions": DISCRETE, **options})
    fused, reference = Fused(given, kernels), by_autograd(given)
    assert_same_iteration(fused, fused.run(), reference)


@pytest.mark.parametrize(
    "options",
    [pytest.param(CASES[name], id=name, marks=[pytest.mark.quick] * (name == "gaussian")) for name in (*QUICK, "odd")],
)
def test_an_iteration_of_two_processes_is_that_of_one_with_all_samples(kernels: Any, options: dict[str, Any]) -> None:
    whole = case(**{"actions": DISCRETE, **options, "size": (5, 42), "minibatches": 2})
    parts = [dealt_out(whole, rank, 2) for rank in range(2)]
    reference = by_autograd(whole, minibatches_of_all(parts))

    def iterate(processes: Processes) -> tuple[Fused, StepTable]:
        fused = Fused(parts[processes.rank], kernels, processes)
        return fused, fused.run()

    found = in_turns(iterate)
    for fused, table in found:
        assert_same_iteration(fused, table, reference)
        assert torch.equal(fused.case.policy.flat, parts[0].policy.flat)
        assert torch.equal(table.measured, found[0][1].measured)


def test_two_processes_stop_at_the_same_step(kernels: Any) -> None:
    # At this distance, some steps are taken before.
    whole = case(DISCRETE, size=(5, 42), n_epochs=3)
    reference = by_autograd(whole, minibatches_of_all([dealt_out(whole, rank, 2) for rank in range(2)]))
    bounds = reference.measured[:, 3]
    target = float((bounds[0] + bounds.max()) / 2 / 1.5)
    stop = int((bounds > 1.5 * target).int().argmax())
    assert stop > 0
    whole = case(DISCRETE, size=(5, 42), n_epochs=3, target_kl=target)

    def iterate(processes: Processes) -> StepTable:
        return Fused(dealt_out(whole, processes.rank, 2), kernels, processes).run()

    for table in in_turns(iterate):
        assert table.status.tolist() == [0] * (stop + 1) + [STOPPED] * (6 - stop)


@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "box"])
def test_tf32_gradients_are_near(kernels: Any, actions: spaces.Space[Any]) -> None:
    if kernels is cpp_update:
        pytest.skip("on a CPU, products are float32's")
    given = case(actions, hidden_sizes=(64, 64), precision="tf32", minibatches=1, n_epochs=1)
    fused = Fused(given, kernels)
    error = max(gradient_errors(given, fused.gradient_of_first_step(), by_autograd(given)).values())
    # Were products not rounded to tf32, which the interpreter imitates, it would be below 1e-6.
    assert 1e-5 < error < 1e-3


@pytest.mark.parametrize("advantage", [0.1, -3.3, 1e6])
@pytest.mark.parametrize("size", [(3, 1), (3, 41), (17, 33)], ids=str)
def test_equal_advantages_move_no_policy(kernels: Any, size: tuple[int, int], advantage: float) -> None:
    # Else the rounding of their mean would be scaled to a deviation of 1.
    given = case(DISCRETE, size=size, minibatches=1, n_epochs=1, ent_coef=0.0, vf_coef=0.0)
    given.columns[4].fill_(advantage)
    table = Fused(given, kernels).run()
    assert not table.norms.any()
    assert not table.measured[:, 0].any()


def test_equal_seeds_give_equal_bits(kernels: Any) -> None:
    runs = []
    for _ in range(2):
        given = case(BOX, hidden_sizes=(20,))
        Fused(given, kernels).run()
        runs.append(given.policy.flat.clone())
    assert torch.equal(*runs)


def test_a_policy_that_moved_too_far_stops(kernels: Any) -> None:
    given = case(DISCRETE, target_kl=1e-3, n_epochs=3)
    fused = Fused(given, kernels)
    before = given.policy.flat.clone()
    table = fused.run()
    assert table.measured[0, 3] > 1.5e-3
    assert table.status.tolist() == [0] + [STOPPED] * 6
    assert fused.count == 0
    assert torch.equal(given.policy.flat, before)


def test_it_stops_where_pytorch_would(kernels: Any) -> None:
    # At this distance, some steps are taken before.
    reference = by_autograd(case(DISCRETE, n_epochs=3))
    bounds = reference.measured[:, 3]
    target = float((bounds[0] + bounds.max()) / 2 / 1.5)
    stop = int((bounds > 1.5 * target).int().argmax())
    assert stop > 0
    fused = Fused(case(DISCRETE, n_epochs=3, target_kl=target), kernels)
    assert fused.run().status.tolist() == [0] * (stop + 1) + [STOPPED] * (6 - stop)
    assert fused.count == stop


@pytest.mark.parametrize("column", [0, 2, 3, 4], ids=["obs", "log_prob", "value", "advantage"])
def test_what_is_not_finite_moves_nothing(kernels: Any, column: int) -> None:
    given = case(DISCRETE, n_epochs=1)
    given.columns[column][1, 2] = NAN
    fused = Fused(given, kernels)
    before = given.policy.flat.clone()
    table = fused.run()
    first_bad = int((~table.norms.isfinite()).any(1).int().argmax())
    assert (table.status[first_bad + 1 :] & FAULTY).all()
    assert fused.count == first_bad
    assert given.policy.flat.isfinite().all()
    assert fused.means.isfinite().all()
    assert first_bad > 0 or torch.equal(given.policy.flat, before)


def test_after_a_fault_nothing_moves(kernels: Any) -> None:
    given = case(DISCRETE)
    fused = Fused(given, kernels)
    before = given.policy.flat.clone()
    assert fused.run(status=FAULTY).status.eq(FAULTY).all()
    assert torch.equal(given.policy.flat, before)


def test_frozen_tensors_stay_and_have_no_norm(kernels: Any) -> None:
    given = case(DISCRETE)
    fused = Fused(given, kernels)
    fused.trainable[2] = False
    before = [view.clone() for view in given.policy.mlp.views()]
    table = fused.run()
    assert table.norms[:, 2].eq(0.0).all()
    changed = [not torch.equal(*pair) for pair in zip(before, given.policy.mlp.views(), strict=True)]
    assert changed == fused.trainable.tolist()


def some_flags(share: float, seed: int) -> Tensor:
    return torch.rand(13, 41, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.quick
def test_advantages_are_those_of_the_reference(kernels: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    rewards, values, final = torch.randn(3, 13, 41, generator=generator)
    terminated, truncated = some_flags(0.1, 2), some_flags(0.1, 3)
    found = kernels.estimate_advantages(
        *(rewards, values, final, terminated, truncated), hyperparameters(gamma=0.9, gae_lambda=0.8)
    )
    ended = terminated | truncated
    is_last = torch.arange(13)[:, None] == 12
    following = torch.where(truncated | is_last, final, values.roll(-1, 0))
    columns = (rewards.double(), values.double(), following.double(), terminated, ended)
    torch.testing.assert_close(found.double(), generalized_advantages(*columns, 0.9, 0.8), rtol=1e-5, atol=1e-5)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    if HAS_TRITON:
        pytest.skip("of the C++ alone")
    monkeypatch.setattr(cpp_update, "_SAMPLES_PER_THREAD", 1)
    runs, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4, 7):
            torch.set_num_threads(threads)
            given = case(BOX, size=(13, 101), minibatches=2, n_epochs=3, hidden_sizes=(20,))
            table = Fused(given, cpp_update).run()
            runs.append((given.policy.flat.clone(), table.measured.clone()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))
