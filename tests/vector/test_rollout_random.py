"""Random actions of rollouts: legal, even, and independent of all else. Seeds are fixed, so that a failure repeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from contract_envs import Drift, Ledge, every_mode, ledge_constant_mask
from gymnasium import spaces
from rollouts import Noise, every_form, is_legal, make, output_names

from operant_gpu import AutoresetMode

# Deviations in standard errors: five is passed by chance once in two million.
SIGMAS = 5.0


def assert_even(counts: np.ndarray) -> None:
    """Check that cells are as full as an even distribution leaves them, by chi-square."""
    expected = counts.sum() / counts.size
    assert expected >= 20
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), max(counts.size - 1, 1)
    assert statistic < freedom + SIGMAS * np.sqrt(2 * freedom)


def assert_moment(samples: np.ndarray, expected: float) -> None:
    assert abs(samples.mean() - expected) < SIGMAS * samples.std() / np.sqrt(samples.size)


def assert_uncorrelated(one: torch.Tensor, other: torch.Tensor) -> None:
    pair = np.stack([one.double().numpy().ravel(), other.double().numpy().ravel()])
    assert abs(np.corrcoef(pair)[0, 1]) < SIGMAS / np.sqrt(pair.shape[1])


@every_form
def test_actions_are_legal(name: str, backend: str, mode: AutoresetMode) -> None:
    env = make(name, backend, mode, num_envs=50)
    env.reset(seed=1)
    stored = env.rollout(12, "random", output_names(env))
    env.check()
    if stored["action"].is_floating_point():
        space = env.single_action_space
        assert all(space.contains(action) for action in stored["action"].flatten(0, 1).numpy())
    else:
        assert is_legal(env, stored["action"], stored.get("action_mask")).all()


@pytest.mark.parametrize(("name", "sizes"), [("CartPole-v1", (2,)), ("Acrobot-v1", (3,)), ("Dials-v0", (3, 4))])
def test_actions_are_even_and_follow_each_other_evenly(name: str, backend: str, sizes: tuple[int, ...]) -> None:
    env = make(name, backend, num_envs=1500, max_episode_steps=10)
    env.reset(seed=2)
    action = env.rollout(20, out=["action"])["action"].reshape(20, 1500, len(sizes)).numpy()
    low = action.min((0, 1))
    cells = np.ravel_multi_index(tuple(np.moveaxis(action - low, -1, 0)), sizes)
    count = int(np.prod(sizes))
    assert_even(np.bincount(cells.ravel(), minlength=count))
    # In time, from an environment to the next, and at each step.
    for one, other in ((cells[:-1], cells[1:]), (cells[:, :-1], cells[:, 1:]), (cells[:-10], cells[10:])):
        assert_even(np.bincount((one * count + other).ravel(), minlength=count**2))
    for row in cells:
        assert_even(np.bincount(row, minlength=count))


def groups(mask: torch.Tensor, action: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each mask that came often, and the choices made under it."""
    masks, index = np.unique(mask.flatten(0, 1).numpy(), axis=0, return_inverse=True)
    for i, pattern in enumerate(masks):
        choices = action.flatten().numpy()[index.ravel() == i]
        if len(choices) >= 20 * pattern.sum():
            yield pattern, choices


def test_actions_are_even_among_the_legal_ones_of_each_mask(backend: str) -> None:
    env = make("Ledge-v0", backend, num_envs=1500, max_episode_steps=10)
    env.reset(seed=3)
    stored = env.rollout(20, "random", ["action", "action_mask"])
    seen = 0
    for pattern, choices in groups(stored["action_mask"], stored["action"]):
        counts = np.bincount(choices - 1, minlength=5)
        assert not counts[~pattern].any()
        assert_even(counts[pattern])
        seen += 1
    assert seen >= 6


def test_each_component_has_a_mask_of_its_own(backend: str) -> None:
    env = make("MaskedDials-v0", backend, num_envs=1500, max_episode_steps=30)
    env.reset(seed=3)
    stored = env.rollout(25, "random", ["action", "action_mask"])
    for component, columns, low, patterns in ((0, slice(0, 3), -1, 3), (1, slice(3, 7), -2, 4)):
        found = list(groups(stored["action_mask"][..., columns], stored["action"][..., component]))
        assert len(found) >= patterns
        for pattern, choices in found:
            counts = np.bincount(choices - low, minlength=len(pattern))
            assert not counts[~pattern].any()
            assert_even(counts[pattern])


def test_masks_of_plain_numbers_are_obeyed(backend: str) -> None:
    environment = dataclasses.replace(Ledge, action_mask=ledge_constant_mask)
    env = environment(300, device="cpu", backend=backend)
    env.reset(seed=1)
    stored = env.rollout(4, "random", ["action", "action_mask"])
    assert stored["action_mask"].flatten(0, 1).unique(dim=0).tolist() == [[True, False, True, True, True]]
    actions = stored["action"].numpy()
    assert_even(np.bincount(actions.ravel(), minlength=6)[[1, 3, 4, 5]])
    assert 2 not in actions


def test_floats_are_even_between_their_bounds(backend: str) -> None:
    env = Noise(1500, device="cpu", backend=backend)
    env.reset(seed=4)
    action = env.rollout(20, out=["action"])["action"].double().numpy()
    for component, low, high in ((0, 0.0, 1.0), (1, -5.0, 3.0)):
        unit = ((action[..., component] - low) / (high - low)).ravel()
        assert unit.min() >= 0.0
        assert unit.max() <= 1.0
        assert unit.min() < 1e-3
        assert unit.max() > 1 - 1e-3
        assert_moment(unit, 1 / 2)
        assert_moment((unit - 0.5) ** 2, 1 / 12)
        assert_even(np.bincount((unit * 50).astype(int).clip(0, 49), minlength=50))


@every_mode
def test_actions_are_independent_of_the_streams_of_steps_and_resets(backend: str, mode: AutoresetMode) -> None:
    env = Noise(3000, device="cpu", backend=backend, autoreset_mode=mode)
    env.reset(seed=5)
    stored = env.rollout(4, "random", ["obs", "action", "final_obs"])
    one, other = stored["action"].unbind(-1)
    assert_uncorrelated(one, other)
    for component in (one, other):
        # The first observations are draws of resets, the final ones of steps.
        assert_uncorrelated(component[0], stored["obs"][0])
        assert_uncorrelated(component, stored["final_obs"])
        assert_uncorrelated(component[1:], component[:-1])
        assert_uncorrelated(component[:, 1:], component[:, :-1])


def test_actions_of_later_episodes_are_independent_of_those_before(backend: str) -> None:
    env = Noise(3000, device="cpu", backend=backend)
    env.reset(seed=6)
    action = env.rollout(8, out=["action"])["action"]
    for component in action.unbind(-1):
        assert_uncorrelated(component[:4], component[4:])


def test_steps_draw_the_same_whatever_the_policy(backend: str) -> None:
    envs = [Noise(40, device="cpu", backend=backend) for _ in range(2)]
    for env in envs:
        env.reset(seed=7)
    one = envs[0].rollout(9, "random", ["final_obs"])
    other = envs[1].rollout(9, torch.zeros(9, 40, 2), ["final_obs"])
    assert one["final_obs"].equal(other["final_obs"])


def test_a_box_with_one_point_is_that_point(backend: str) -> None:
    point = dataclasses.replace(Drift, action_space=spaces.Box(0.5, 0.5, (2,)))
    env = point(5, device="cpu", backend=backend)
    env.reset(seed=1)
    assert env.rollout(3, out=["action"])["action"].unique().tolist() == [0.5]
