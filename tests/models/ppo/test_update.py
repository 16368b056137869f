"""One iteration's learning by the eager engine against a naive float64 reference, and when it stops."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from learning_envs import Forbidden

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.ppo.rollout import Minibatch, Rollout
from operant_gpu.vector import VecEnv

pytestmark = pytest.mark.quick


def small(**changes: object) -> PPOConfig:
    defaults = {"n_steps": 8, "batch_size": 32, "n_epochs": 2, "hidden_sizes": (16,), "lr": 2.5e-3}
    return PPOConfig(**{"engine": "eager", **defaults, **changes})


def begun(env: VecEnv, config: PPOConfig) -> tuple[PPO, Rollout]:
    """Return a learner that has collected its first rollout, but not learned from it."""
    learner = PPO(env, config)
    learner._begin()
    learner._loop.stages[0]()
    return learner, learner._loop.rollout


def some_batch(generator: torch.Generator) -> Minibatch:
    obs, advantages, returns, values = (torch.randn(6, *s, generator=generator) for s in ((4,), (), (), ()))
    log_probs = torch.log(torch.tensor([0.9, 0.2, 0.5, 0.4, 0.7, 0.1]))
    actions = torch.tensor([0, 1, 1, 0, 1, 0])
    return Minibatch(obs, actions, log_probs, values, advantages, returns, None, None, None)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("vf_clip_eps", [None, 0.1])
def test_the_objective_is_that_of_the_paper_in_float64(normalize: bool, vf_clip_eps: float | None) -> None:
    config = small(ent_coef=0.03, vf_coef=0.7, vf_clip_eps=vf_clip_eps, normalize_advantages=normalize)
    learner = PPO(operant_gpu.make("CartPole-v1", 4, device="cpu"), config)
    batch = some_batch(torch.Generator().manual_seed(0))
    loss, measured = learner._loop.update.objective(batch)

    logits, values, _ = (x if x is None else x.detach().double().numpy() for x in learner.policy(batch.obs, None, None))
    _, actions, log_probs, old_values, a, returns = (x.double().numpy() for x in batch[:6])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ratio = probabilities[np.arange(6), actions.astype(int)] / np.exp(log_probs)
    if normalize:
        a = (a - a.mean()) / (a.std(ddof=1) + 1e-8)
    errors = (values - returns) ** 2
    if vf_clip_eps is not None:
        near = old_values + np.clip(values - old_values, -vf_clip_eps, vf_clip_eps)
        errors = np.maximum(errors, (near - returns) ** 2)
    policy_loss = -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).mean()
    entropy = -(probabilities * np.log(probabilities)).sum(1).mean()
    distance = [(ratio - 1 - np.log(ratio)).mean(), (np.abs(ratio - 1) > 0.2).mean()]
    expected = [policy_loss, 0.5 * errors.mean(), entropy, *distance]
    np.testing.assert_allclose(measured.double().numpy(), expected, rtol=1e-5, atol=1e-7)
    total = policy_loss + 0.7 * 0.5 * errors.mean() - 0.03 * entropy
    assert loss.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"gru_size": 8, "ent_coef": 0.01}, {"vf_clip_eps": 0.2, "shared_trunk": True}])
def test_an_update_is_plain_gradient_descent_in_float64(changes: dict[str, object]) -> None:
    """A naive loop with torch's plain Adam, in float64 and over the same minibatches, moves the policy alike."""
    config = small(**changes)
    learner, rollout = begun(operant_gpu.make("CartPole-v1", 8, device="cpu", max_episode_steps=6), config)
    naive = copy.deepcopy(learner.policy).double()
    generator = copy.deepcopy(learner._generator)
    advantages = learner._loop.update.advantages(rollout).double()
    learner._loop.stages[1]()

    optimizer = torch.optim.Adam(naive.parameters(), lr=config.lr, eps=1e-5)
    returns, axis = advantages + rollout.value, 1 if config.gru_size else 0
    columns = [rollout.obs[:-1], rollout.policy_action, rollout.log_prob, rollout.value, advantages, returns]
    columns = columns if axis else [column.flatten(0, 1) for column in columns]
    for _ in range(config.n_epochs):
        order = torch.randperm(columns[0].shape[axis], generator=generator)
        for rows in order.tensor_split(2):
            obs, actions, old, old_values, a, target = (
                column.index_select(axis, rows).double()
                if column.is_floating_point()
                else column.index_select(axis, rows)
                for column in columns
            )
            state = rollout.states[0][rows].double() if axis else None
            starts = rollout.starts[:-1][:, rows] if axis else None
            outputs, values = naive.network(obs, state, starts)[:2] if axis else naive.network(obs)
            distribution = torch.distributions.Categorical(logits=outputs)
            ratio = (distribution.log_prob(actions) - old).exp()
            a = (a - a.mean()) / a.std()
            policy_loss = -torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
            errors = (values - target) ** 2
            if config.vf_clip_eps is not None:
                near = old_values + (values - old_values).clamp(-config.vf_clip_eps, config.vf_clip_eps)
                errors = torch.max(errors, (near - target) ** 2)
            loss = policy_loss + config.vf_coef * 0.5 * errors.mean()
            loss = loss - config.ent_coef * distribution.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(naive.parameters(), config.max_grad_norm)
            optimizer.step()
    for (name, parameter), expected in zip(learner.policy.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.double(), expected, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_target_kl_stops_an_iteration_before_the_step_that_goes_too_far() -> None:
    """Steps up to the stop are those of a run without it; none follows."""
    histories = []
    for target in (None, 1e-4):
        learner, _ = begun(operant_gpu.make("CartPole-v1", 16, device="cpu"), small(lr=1e-2, target_kl=target))
        measured = []
        original = learner._loop.update.objective

        def recorded(batch, original=original, measured=measured, learner=learner):
            loss, numbers = original(batch)
            measured.append((numbers[3].item(), [p.detach().clone() for p in learner.policy.parameters()]))
            return loss, numbers

        learner._loop.update._objective = recorded
        learner._loop.stages[1]()
        histories.append(
            (
                measured,
                [p.detach().clone() for p in learner.policy.parameters()],
                learner._loop.read(learner.iterations, is_due=True),
            )
        )
    (every, _, _), (until, final, metrics) = histories
    stop = next(i for i, (kl, _) in enumerate(every) if kl > 1.5e-4)
    assert 0 < stop < len(every) - 1
    assert len(until) == stop + 1
    assert all(map(torch.equal, final, every[stop][1]))
    assert metrics["approx_kl"] == pytest.approx(np.mean([kl for kl, _ in until]))


def test_rewards_are_scaled_before_advantages_when_asked_for() -> None:
    learner, rollout = begun(operant_gpu.make("Pendulum-v1", 8, device="cpu"), small(normalize_rewards=True))
    plain = learner.reward_normalizer
    learner._loop.update._reward_normalizer = None
    unscaled = learner._loop.update.advantages(rollout)
    learner._loop.update._reward_normalizer = plain
    scaled = learner._loop.update.advantages(rollout)
    assert scaled.std() < unscaled.std()
    assert plain.moments.count == rollout.reward.numel()


def test_observation_statistics_move_after_the_update_alone() -> None:
    learner, rollout = begun(operant_gpu.make("Pendulum-v1", 8, device="cpu"), small(normalize_observations=True))
    normalizer = learner.policy.normalizer
    assert normalizer.moments.count == 0
    learner._loop.stages[1]()
    obs = rollout.obs[:-1].flatten(0, 1).double()
    torch.testing.assert_close(normalizer.moments.mean, obs.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(normalizer.moments.var, obs.var(0, correction=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        normalizer(rollout.obs[0]).double(),
        (rollout.obs[0] - obs.mean(0)) / obs.std(0, correction=0),
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_first_ratio_of_an_iteration_is_one() -> None:
    """The update sees a policy as it acted: normalised by the same statistics, under the same masks."""
    config = small(normalize_observations=True, n_epochs=1)
    learner = PPO(Forbidden(32, device="cpu"), config).learn(512)
    learner._loop.stages[0]()
    ratios = []
    original = learner._loop.update.objective

    def recorded(batch):
        new = learner.policy.evaluate(batch.obs, batch.policy_action, None, None, batch.action_mask)
        ratios.append((new.log_prob - batch.log_prob).exp())
        return original(batch)

    learner._loop.update._objective = recorded
    learner._loop.stages[1]()
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]))
    assert (ratios[-1] - 1).abs().max() > 1e-4


def test_a_fault_leaves_the_policy_as_it_was() -> None:
    learner, rollout = begun(
        operant_gpu.make("CartPole-v1", 16, device="cpu"), small(normalize_observations=True, normalize_rewards=True)
    )
    learner._loop.stages[1]()
    before = copy.deepcopy(learner.policy.state_dict())
    learner._loop.stages[0]()
    rollout.reward[3, 5] = math.nan
    learner._loop.stages[1]()
    after = learner.policy.state_dict()
    parameters = dict(learner.policy.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in parameters)
    assert all(value.isfinite().all() for value in after.values())
    assert learner.reward_normalizer.moments.var.isfinite()
