"""Adam against torch's plain one: its steps, those that are skipped, and the clipping of gradients."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

from operant_gpu.errors import InvalidConfig
from operant_gpu.models.ppo.optimizer import Adam

LR = 1e-2
YES, NO = torch.tensor(True), torch.tensor(False)


def parameters() -> list[nn.Parameter]:
    generator = Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (3,), ())]


def give_gradients(params: list[nn.Parameter], seed: int) -> None:
    generator = Generator().manual_seed(seed)
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def optimizer(params: list[nn.Parameter]) -> Adam:
    return Adam(params, torch.device("cpu"))


def plain_adam(params: list[nn.Parameter], lr: float = LR) -> torch.optim.Adam:
    return torch.optim.Adam(params, lr=lr, eps=1e-5, foreach=False)


def state(params: list[nn.Parameter], adam: Adam) -> dict[str, object]:
    """Return a copy of parameters, moments and count."""
    return copy.deepcopy({"params": [parameter.detach() for parameter in params], **adam.state_dict()})


def assert_same(one: object, other: object) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("condition", [None, YES])
def test_steps_are_those_of_plain_adam(condition: Tensor | None) -> None:
    own, plain = parameters(), parameters()
    adam, expected = optimizer(own), plain_adam(plain)
    for step in range(20):
        give_gradients(own, step)
        give_gradients(plain, step)
        adam.step(LR, condition=condition)
        expected.step()
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-6)


def test_the_first_step_is_worked_out_by_hand() -> None:
    # The first moments are the gradient and its square, once corrected: lr * g / (|g| + eps).
    parameter = nn.Parameter(torch.tensor([1.0, 1.0]))
    parameter.grad = torch.tensor([1e-5, -3.0])
    optimizer([parameter]).step(0.1)
    torch.testing.assert_close(parameter.detach(), torch.tensor([1.0 - 0.1 * 0.5, 1.1]))


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_each_step_has_a_learning_rate_of_its_own(kind: Callable[[float], float | Tensor]) -> None:
    own, plain = parameters(), parameters()
    adam, expected = optimizer(own), plain_adam(plain)
    for step, lr in enumerate((1e-2, 5e-3, 0.5)):
        expected.param_groups[0]["lr"] = lr
        give_gradients(own, step)
        give_gradients(plain, step)
        adam.step(kind(lr))
        expected.step()
    torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-6)
    before = [parameter.detach().clone() for parameter in own]
    adam.step(kind(0.0))
    assert_same([parameter.detach() for parameter in own], before)


def test_a_learning_rate_that_would_be_ignored_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"^lr: write learner.hyperparameters.lr = 0.1$"):
        optimizer(parameters()).lr = 0.1


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 2.0, 1e3])
def test_gradients_are_clipped_as_torch_does(max_norm: float) -> None:
    own, plain = parameters(), parameters()
    adam, expected = optimizer(own), plain_adam(plain)
    for step in range(5):
        give_gradients(own, step)
        give_gradients(plain, step)
        norm = adam.gradient_norms().norm()
        total = torch.nn.utils.clip_grad_norm_(plain, max_norm)
        torch.testing.assert_close(norm, total)
        adam.step(LR, norm, max_norm, YES)
        expected.step()
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-6)


def test_tiny_norms_are_clipped_as_torch_does() -> None:
    """What keeps the division from zero is then as large as the norm, and so is what Adam adds to the deviation."""
    own, plain = (nn.Parameter(torch.ones(1)) for _ in range(2))
    own.grad, plain.grad = torch.tensor([1e-6]), torch.tensor([1e-6])
    adam = optimizer([own])
    adam.step(1.0, adam.gradient_norms().norm(), 1e-6)
    torch.nn.utils.clip_grad_norm_([plain], 1e-6)
    plain_adam([plain], 1.0).step()
    torch.testing.assert_close(own, plain, rtol=0, atol=1e-4)


def test_gradients_of_zero_are_clipped_without_a_division_by_zero() -> None:
    own = parameters()
    before = [parameter.detach().clone() for parameter in own]
    for parameter in own:
        parameter.grad = torch.zeros_like(parameter)
    adam = optimizer(own)
    adam.step(LR, adam.gradient_norms().norm(), 0.5)
    assert_same([parameter.detach() for parameter in own], before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_norms_are_of_each_parameter_and_tell_which_is_not_finite(bad: float) -> None:
    own = parameters()
    give_gradients(own, 5)
    adam = optimizer(own)
    assert_same(adam.gradient_norms(), torch.stack([parameter.grad.norm() for parameter in own]))
    own[1].grad[2] = bad
    assert adam.gradient_norms().isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("bad", [0.5, math.nan, math.inf])
def test_a_forbidden_step_leaves_everything_untouched(bad: float, clipped: bool) -> None:
    own = parameters()
    adam = optimizer(own)
    for step in range(3):
        give_gradients(own, step)
        adam.step(LR)
    before = state(own, adam)
    own[0].grad[1, 2] = bad
    adam.step(LR, adam.gradient_norms().norm() if clipped else None, 0.5, NO)
    assert_same(state(own, adam), before)
    give_gradients(own, 9)
    adam.step(LR, adam.gradient_norms().norm() if clipped else None, 0.5, YES)
    after = state(own, adam)
    assert after["count"] == 4
    for name in ("params", "means", "squares"):
        assert not any(map(torch.equal, after[name], before[name]))


def test_steps_after_a_forbidden_one_are_as_if_it_had_not_been() -> None:
    with_gap, without = parameters(), parameters()
    one, other = optimizer(with_gap), optimizer(without)
    for step in range(6):
        give_gradients(with_gap, step)
        # The very first among them, where there are no moments yet.
        allowed = step not in (0, 3)
        one.step(LR, condition=torch.tensor(allowed))
        if allowed:
            give_gradients(without, step)
            other.step(LR)
    assert_same(state(with_gap, one), state(without, other))


def test_a_parameter_without_gradient_counts_as_zero_and_stays() -> None:
    own, plain = parameters(), parameters()
    give_gradients(own, 5)
    give_gradients(plain, 5)
    own[1].grad = plain[1].grad = None
    before = own[1].detach().clone()
    adam = optimizer(own)
    norms = adam.gradient_norms()
    assert norms.shape == (3,)
    assert norms[1] == 0
    adam.step(LR, norms.norm(), 0.5)
    torch.nn.utils.clip_grad_norm_(plain, 0.5)
    plain_adam(plain).step()
    torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(own[1], before)
    assert own[1].grad is None


def test_gradients_are_forgotten_when_asked_for() -> None:
    own = parameters()
    give_gradients(own, 0)
    optimizer(own).zero_grad()
    assert all(parameter.grad is None for parameter in own)


def saved(adam: Adam) -> dict[str, object]:
    """Return the state by way of a file."""
    file = io.BytesIO()
    torch.save(adam.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_saved_optimizer_goes_on_alike() -> None:
    own, others = parameters(), parameters()
    adam, loaded = optimizer(own), optimizer(others)
    memory = loaded.state_dict()
    for step in range(2):
        give_gradients(own, step)
        adam.step(LR)
    loaded.load_state_dict(saved(adam))
    for one, other in zip(others, own, strict=True):
        one.data.copy_(other)
    assert_same(state(others, loaded), state(own, adam))
    # Read into the same memory, which a captured step reads.
    assert_same(memory, loaded.state_dict())
    assert memory["count"] is loaded.state_dict()["count"]
    for params, each in ((own, adam), (others, loaded)):
        give_gradients(params, 9)
        each.step(LR)
    assert_same(state(others, loaded), state(own, adam))


def test_a_loaded_state_is_a_copy() -> None:
    own, others = parameters(), parameters()
    adam, loaded = optimizer(own), optimizer(others)
    loaded.load_state_dict(adam.state_dict())
    before = state(others, loaded)
    give_gradients(own, 0)
    adam.step(LR)
    assert_same(state(others, loaded), before)


def test_the_state_of_other_parameters_is_refused() -> None:
    for others in (parameters()[:2], [*parameters()[:2], nn.Parameter(torch.ones(1))]):
        own = parameters()
        adam = optimizer(own)
        before = state(own, adam)
        with pytest.raises(ValueError, match="other parameters"):
            adam.load_state_dict(saved(optimizer(others)))
        assert_same(state(own, adam), before)
