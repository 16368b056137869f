"""Distributions over actions against torch.distributions, by their frequencies, and under masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from operant_gpu import InvalidConfig
from operant_gpu.models.policies.distributions import Distribution, distribution_for

pytestmark = pytest.mark.quick

DRAWS = 100_000
LEADS = [(), (6,), (4, 3), (2, 3, 2)]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def gaussian(dims: int, low: float = -1.0, high: float = 1.0) -> Distribution:
    """Return a family whose components have different deviations."""
    family = distribution_for(spaces.Box(low, high, (dims,)))
    family.log_std.data = torch.linspace(-1.0, 0.5, dims)
    return family


class MultiReference:
    """Independent categoricals, from torch."""

    def __init__(self, outputs: Tensor) -> None:
        self.parts = [torch.distributions.Categorical(logits=logits) for logits in outputs.split([3, 2, 4], -1)]

    def log_prob(self, actions: Tensor) -> Tensor:
        return sum(part.log_prob(action) for part, action in zip(self.parts, actions.unbind(-1), strict=True))

    def entropy(self) -> Tensor:
        return sum(part.entropy() for part in self.parts)


FAMILIES = {
    "discrete": (distribution_for(spaces.Discrete(5)), lambda logits: torch.distributions.Categorical(logits=logits)),
    "multi": (distribution_for(spaces.MultiDiscrete([3, 2, 4])), MultiReference),
    "gaussian": (
        gaussian(3),
        lambda means: torch.distributions.Independent(
            torch.distributions.Normal(means, torch.linspace(-1.0, 0.5, 3).exp()), 1
        ),
    ),
}


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("name", FAMILIES)
def test_log_prob_and_entropy_are_those_of_torch(name: str, lead: tuple[int, ...]) -> None:
    family, reference = FAMILIES[name]
    outputs = 3 * torch.randn(*lead, family.outputs, generator=seeded())
    actions = family.sample(outputs, None, seeded(1))
    assert actions.shape == (*lead, *family.action_shape)
    assert actions.dtype == family.action_dtype
    expected = reference(outputs)
    torch.testing.assert_close(family.log_prob(outputs, actions, None), expected.log_prob(actions))
    torch.testing.assert_close(family.entropy(outputs, None), expected.entropy())


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_log_prob_and_entropy_are_those_of_torch(name: str) -> None:
    family, reference = FAMILIES[name]
    outputs = torch.randn(6, family.outputs, generator=seeded())
    actions = family.sample(outputs, None, seeded(1)).detach()
    gradients = []
    for log_prob, entropy in (
        (lambda x: family.log_prob(x, actions, None), lambda x: family.entropy(x, None)),
        (lambda x: reference(x).log_prob(actions), lambda x: reference(x).entropy()),
    ):
        leaf = outputs.clone().requires_grad_()
        (log_prob(leaf).sum() + 0.3 * entropy(leaf).sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def chi_square(actions: Tensor, probabilities: Tensor) -> Tensor:
    """Return how far counts are off, in deviations of the chi-square statistic from its mean."""
    expected = probabilities * len(actions)
    counts = torch.bincount(actions, minlength=len(probabilities))
    freedom = len(probabilities) - 1
    return (((counts - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("seed", range(3))
def test_actions_are_drawn_with_the_probabilities_of_the_softmax(seed: int) -> None:
    logits = torch.tensor([2.0, -1.0, 0.0, 1.0, 0.5])
    actions = distribution_for(spaces.Discrete(5)).sample(logits.expand(DRAWS, 5), None, seeded(seed))
    assert chi_square(actions, logits.softmax(0)) < 6


def test_several_actions_are_drawn_independently() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5, -0.5])
    family = distribution_for(spaces.MultiDiscrete([3, 2]))
    actions = family.sample(logits.expand(DRAWS, 5), None, seeded())
    joint = logits[:3].softmax(0)[:, None] * logits[3:].softmax(0)
    assert chi_square(actions[:, 0] * 2 + actions[:, 1], joint.flatten()) < 6


def test_masked_draws_keep_the_odds_of_legal_actions() -> None:
    logits, mask = torch.tensor([2.0, -1.0, 0.0, 1.0, 0.5]), torch.tensor([False, True, True, False, True])
    actions = distribution_for(spaces.Discrete(5)).sample(logits.expand(DRAWS, 5), mask, seeded())
    assert mask[actions].all()
    numbers = torch.tensor([-1, 0, 1, -1, 2])[actions]
    assert chi_square(numbers, logits[mask].softmax(0)) < 6


def test_gaussian_actions_have_their_means_and_deviations() -> None:
    means = torch.tensor([3.0, -1.0, 0.0])
    actions = gaussian(3).sample(means.expand(DRAWS, 3), None, seeded()).double()
    deviations = torch.linspace(-1.0, 0.5, 3).exp().double()
    within = 5 / math.sqrt(DRAWS)
    assert ((actions.mean(0) - means).abs() < within * deviations).all()
    assert ((actions.std(0) / deviations - 1).abs() < within).all()
    correlations = torch.corrcoef(actions.T) - torch.eye(3)
    assert correlations.abs().max() < within


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_come_from_the_generator_alone(name: str) -> None:
    family, _ = FAMILIES[name]
    outputs = torch.zeros(50, family.outputs)
    torch.manual_seed(1)
    first = family.sample(outputs, None, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(family.sample(outputs, None, seeded(3)), first)
    assert not torch.equal(family.sample(outputs, None, seeded(4)), first)


def test_an_illegal_action_is_never_drawn_however_likely() -> None:
    logits, mask = torch.tensor([0.0, 1e4, -1e4, 5.0]), torch.tensor([True, False, True, True])
    family, generator = distribution_for(spaces.Discrete(4)), seeded()
    actions = family.sample(logits.expand(1_000_000, 4), mask.expand(1_000_000, 4), generator)
    assert set(actions.unique().tolist()) == {0, 3}
    assert family.mode(logits, mask) == 3
    only = torch.tensor([False, False, True, False])
    assert (family.sample(logits.expand(1_000, 4), only, generator) == 2).all()
    several = distribution_for(spaces.MultiDiscrete([2, 2]))
    actions = several.sample(logits.expand(250_000, 4), mask, generator)
    assert (actions[:, 0] == 0).all()
    assert torch.equal(several.mode(logits, mask), torch.tensor([0, 1]))


MASKED_LOGITS = [[0.3, 1e4, -2.0, 0.5, -0.1], [1e4, -1e4, 2.0, 0.0, 1.0], [1.0, 2.0, 3.0, 4.0, 1e4]]
MASKS = [[True, False, True, True, True], [False, True, False, True, False], [True, True, False, True, False]]


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.MultiDiscrete([3, 2])])
def test_masked_probabilities_are_those_among_legal_actions(space: spaces.Space) -> None:
    outputs, masks = torch.tensor(MASKED_LOGITS), torch.tensor(MASKS)
    family = distribution_for(space)
    sizes = [5] if isinstance(space, spaces.Discrete) else [3, 2]
    for logits, mask in zip(outputs, masks, strict=True):
        parts = [part[legal].log_softmax(0) for part, legal in zip(logits.split(sizes), mask.split(sizes), strict=True)]
        legal = [torch.nonzero(legal)[:, 0] for legal in mask.split(sizes)]
        actions = torch.cartesian_prod(*legal)
        expected = torch.cartesian_prod(*parts).reshape(len(actions), -1).sum(-1)
        every = logits.expand(len(actions), 5)
        log_probs = family.log_prob(every, actions, mask.expand(len(actions), 5))
        torch.testing.assert_close(log_probs, expected)
        assert log_probs.exp().sum() == pytest.approx(1.0)
        entropy = family.entropy(logits, mask)
        torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.MultiDiscrete([3, 2])])
def test_gradients_of_masked_logits_are_zero(space: spaces.Space) -> None:
    outputs, masks = torch.tensor(MASKED_LOGITS, requires_grad=True), torch.tensor(MASKS)
    family = distribution_for(space)
    actions = family.sample(outputs, masks, seeded())
    (family.log_prob(outputs, actions, masks) + family.entropy(outputs, masks)).sum().backward()
    assert (outputs.grad[~masks] == 0).all()
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[0, [0, 2]] != 0).all()


def test_a_mask_that_allows_all_changes_nothing() -> None:
    family = distribution_for(spaces.MultiDiscrete([3, 2]))
    outputs, everything = torch.randn(7, 5, generator=seeded()), torch.ones(7, 5, dtype=torch.bool)
    actions = family.sample(outputs, None, seeded(1))
    assert torch.equal(family.sample(outputs, everything, seeded(1)), actions)
    assert torch.equal(family.log_prob(outputs, actions, everything), family.log_prob(outputs, actions, None))
    assert torch.equal(family.entropy(outputs, everything), family.entropy(outputs, None))


def test_the_only_legal_action_is_certain() -> None:
    family = distribution_for(spaces.Discrete(3))
    logits, mask = torch.tensor([50.0, -50.0, 50.0]), torch.tensor([False, True, False])
    assert family.log_prob(logits, torch.tensor(1), mask) == 0
    assert family.entropy(logits, mask) == 0


def test_the_mode_is_the_likeliest_action() -> None:
    assert distribution_for(spaces.Discrete(3)).mode(torch.tensor([[0.0, 2.0, 1.0]]), None).tolist() == [1]
    several = distribution_for(spaces.MultiDiscrete([3, 2]))
    assert several.mode(torch.tensor([[0.0, 2.0, 1.0, 1.0, 0.0]]), None).tolist() == [[1, 0]]
    means = torch.tensor([[0.5, -7.0]])
    assert torch.equal(gaussian(2).mode(means, None), means)


def test_numbers_of_actions_begin_at_the_start_of_the_space() -> None:
    discrete = distribution_for(spaces.Discrete(3, start=-1))
    actions = discrete.sample(torch.zeros(100, 3), None, seeded())
    assert set(actions.tolist()) == {-1, 0, 1}
    assert discrete.mode(torch.tensor([0.0, 0.0, 1.0]), None) == 1
    logits = torch.tensor([1.0, 2.0, 4.0])
    found = discrete.log_prob(logits.expand(3, 3), torch.tensor([-1, 0, 1]), None)
    assert torch.equal(found, logits.log_softmax(0))
    several = distribution_for(spaces.MultiDiscrete([3, 2], start=[5, -2]))
    actions = several.sample(torch.zeros(100, 5), None, seeded())
    assert [set(column.tolist()) for column in actions.T] == [{5, 6, 7}, {-2, -1}]
    assert torch.equal(several.for_environment(actions), actions)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=3),
        spaces.MultiDiscrete([2, 5], start=[-4, 9]),
        spaces.Box(np.float32([-2, 0]), np.float32([-1, 5])),
    ],
)
def test_actions_given_to_the_environment_are_in_its_space(space: spaces.Space) -> None:
    family = distribution_for(space, log_std_init=2.0)
    given = family.for_environment(family.sample(torch.zeros(200, family.outputs), None, seeded()))
    assert all(space.contains(action if action.shape else action.item()) for action in given.detach().numpy())


def test_only_the_environment_is_given_clipped_actions() -> None:
    family = gaussian(2, -1.0, 2.0)
    outputs, actions = torch.zeros(1, 2), torch.tensor([[-3.0, 2.5]])
    assert family.for_environment(actions).tolist() == [[-1.0, 2.0]]
    expected = torch.distributions.Normal(0.0, family.log_std.exp()).log_prob(actions).sum(-1)
    torch.testing.assert_close(family.log_prob(outputs, actions, None), expected)
    assert family.sample(torch.full((1_000, 2), 5.0), None, seeded()).max() > 2.0


def test_the_deviation_begins_as_set_and_learns() -> None:
    family = distribution_for(spaces.Box(-1, 1, (2,)), log_std_init=-0.7)
    assert family.log_std.tolist() == pytest.approx([-0.7, -0.7])
    assert distribution_for(spaces.Box(-1, 1, (2,))).log_std.tolist() == [0.0, 0.0]
    family.log_prob(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), None).sum().backward()
    # Of log N(x; 0, s) by log s: (x / s)^2 - 1.
    assert family.log_std.grad.tolist() == pytest.approx([math.exp(1.4) - 1, -1.0])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-1, 1, ()),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiBinary(3),
        spaces.Dict({"a": spaces.Discrete(2)}),
    ],
)
def test_spaces_without_a_family_are_refused(space: spaces.Space) -> None:
    with pytest.raises(InvalidConfig, match=r"^action_space: expected Discrete, MultiDiscrete \(n,\) or Box \(k,\) "):
        distribution_for(space)
