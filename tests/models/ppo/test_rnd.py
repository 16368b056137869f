"""Curiosity: what its bonus is large for, and what it leaves alone."""

from __future__ import annotations

import copy
import io
import itertools
import math

import pytest
import torch
from contract_envs import Dials, Drift, Ledge, MaskedDials, make_cpu
from gymnasium import spaces
from torch import Generator, Tensor

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.models import PPO, RND, IntrinsicReward, Policy, PPOConfig
from operant_gpu.models.policies.making import make_policy
from operant_gpu.models.ppo.rollout import Rollout

STEPS, NUM_ENVS = 16, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


@pytest.fixture
def rollout() -> Rollout:
    env = operant_gpu.make("CartPole-v1", NUM_ENVS, device="cpu")
    policy = make_policy(env.single_observation_space, env.single_action_space, PPOConfig(hidden_sizes=(8,)))
    rollout = Rollout(env, policy, STEPS)
    rollout.final_obs.copy_(random(STEPS, NUM_ENVS, 4))
    return rollout


def curious(**changes: object) -> RND:
    return RND((4,), NUM_ENVS, **changes)


def copied(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def train(rnd: RND, rollout: Rollout, iterations: int) -> list[Tensor]:
    generator = Generator().manual_seed(1)
    return [rnd(rollout, generator) for _ in range(iterations)]


def test_the_bonus_is_one_finite_number_for_each_step(rollout: Rollout) -> None:
    (bonus,) = train(curious(), rollout, 1)
    assert bonus.shape == (STEPS, NUM_ENVS)
    assert bonus.dtype == torch.float32
    assert bonus.isfinite().all()
    assert (bonus >= 0).all()
    assert not bonus.requires_grad


def test_images_are_flattened() -> None:
    env = operant_gpu.make("CartPole-v1", NUM_ENVS, device="cpu")
    policy = make_policy(env.single_observation_space, env.single_action_space, PPOConfig(hidden_sizes=(8,)))
    rollout = Rollout(env, policy, STEPS)
    rollout.final_obs = random(STEPS, NUM_ENVS, 2, 3, 3)
    assert RND((2, 3, 3), NUM_ENVS)(rollout, Generator()).shape == (STEPS, NUM_ENVS)


class Watching(IntrinsicReward):
    """Keeps the actions that it is shown, and what the policy thinks of them."""

    policy: Policy

    def forward(self, rollout: Rollout, generator: Generator) -> Tensor:
        self.seen, self.log_prob = rollout.action.clone(), rollout.log_prob.clone()
        mask = None if rollout.action_mask is None else rollout.action_mask[:-1].flatten(0, 1)
        obs, action = rollout.obs[:-1].flatten(0, 1), rollout.policy_action.flatten(0, 1)
        self.own = self.policy.evaluate(obs, action, None, None, mask).log_prob.view_as(rollout.log_prob)
        return torch.zeros_like(rollout.reward)


@pytest.mark.parametrize("engine", ["fused", "eager"])
@pytest.mark.parametrize("name", [Ledge.id, Dials.id, MaskedDials.id, Drift.id])
def test_an_intrinsic_reward_is_shown_actions_as_the_environment_takes_them(name: str, engine: str) -> None:
    env, watching = make_cpu(name, 64, "numpy"), Watching()
    learner = PPO(env, PPOConfig(n_steps=8, n_epochs=1, hidden_sizes=(8,), engine=engine), intrinsic=watching)
    watching.policy = learner.policy
    learner.learn(512)
    assert learner.engine == engine
    space = env.single_action_space
    for place in itertools.product(range(8), range(64)):
        action = watching.seen[place].numpy()
        assert space.contains(action if action.shape else action.item())
    if not isinstance(space, spaces.Box):
        low, high = watching.seen.amin((0, 1)), watching.seen.amax((0, 1))
        assert torch.equal(low, torch.as_tensor(space.start).expand_as(low))
        assert torch.equal(high - low + 1, torch.as_tensor(getattr(space, "nvec", getattr(space, "n", None))))
    torch.testing.assert_close(watching.own, watching.log_prob, rtol=1e-4, atol=1e-5)


def test_the_bonus_falls_for_what_is_seen_again_and_again(rollout: Rollout) -> None:
    bonuses = [bonus.mean().item() for bonus in train(curious(), rollout, 60)]
    assert bonuses[-1] < 0.5 * bonuses[0]


def test_the_bonus_is_larger_for_what_was_never_seen(rollout: Rollout) -> None:
    rnd = curious()
    corners = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, 1.0], [-1.0] * 4])
    rollout.final_obs.copy_(corners.repeat(STEPS, 2, 1))
    train(rnd, rollout, 100)
    # A corner as they are, so that it is not just far away.
    rollout.final_obs[5, 3] = torch.tensor([1.0, 1.0, 1.0, -1.0])
    bonus = rnd(rollout, Generator().manual_seed(2))
    others = bonus.flatten()[torch.arange(STEPS * NUM_ENVS) != 5 * NUM_ENVS + 3]
    assert bonus[5, 3] > 5 * others.max()


def test_the_bonus_is_the_scaled_error_of_the_prediction(rollout: Rollout) -> None:
    rnd = curious(gamma=0.9, coef=0.5)
    predictor = copy.deepcopy(rnd.predictor)
    bonus = rnd(rollout, Generator())
    obs = rollout.final_obs.double()
    scaled = ((obs - obs.mean((0, 1))) / obs.std((0, 1), correction=0)).clamp(-5, 5).float()
    errors = (predictor(scaled) - rnd.target(scaled)).square().mean(-1).double()
    running, history = torch.zeros(NUM_ENVS).double(), []
    for error in errors:
        running = 0.9 * running + error
        history.append(running)
    deviation = torch.stack(history).std(correction=0)
    torch.testing.assert_close(bonus.double(), 0.5 * errors / deviation, rtol=1e-3, atol=1e-4)


def test_the_bonus_is_of_the_observation_before_any_reset(rollout: Rollout) -> None:
    (before,) = train(curious(), rollout, 1)
    rollout.obs.fill_(7.0)
    assert torch.equal(train(curious(), rollout, 1)[0], before)
    rollout.final_obs[3, 2] += 1.0
    assert not torch.equal(train(curious(), rollout, 1)[0], before)


def test_its_return_goes_on_over_the_ends_of_episodes(rollout: Rollout) -> None:
    without = train(curious(), rollout, 3)
    rollout.terminated[::2] = rollout.truncated[1::3] = True
    for one, other in zip(without, train(curious(), rollout, 3), strict=True):
        assert torch.equal(one, other)


def test_observations_are_clipped_to_five_deviations(rollout: Rollout) -> None:
    rnd, seen = curious(), []
    for network in (rnd.target, rnd.predictor):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    rollout.final_obs[0, 0] = 1e4
    rollout.final_obs[0, 1] = -1e4
    train(rnd, rollout, 1)
    # Target and predictor for the bonus; then the predictor learns from a quarter.
    assert [len(inputs) for inputs in seen] == [128, 128, 32]
    assert all((inputs[0] == 5).all() and (inputs[1] == -5).all() for inputs in seen[:2])
    assert max(inputs.abs().max() for inputs in seen) == 5


def test_the_weight_scales_the_bonus(rollout: Rollout) -> None:
    one, three = train(curious(), rollout, 3), train(curious(coef=3.0), rollout, 3)
    torch.testing.assert_close([3 * bonus for bonus in one], three)


def test_the_target_never_changes_and_the_predictor_does(rollout: Rollout) -> None:
    rnd = curious()
    target, predictor = copied(rnd.target), copied(rnd.predictor)
    assert not torch.equal(target["0.weight"], predictor["0.weight"])
    train(rnd, rollout, 5)
    torch.testing.assert_close(copied(rnd.target), target, rtol=0, atol=0)
    assert not any(torch.equal(value, predictor[name]) for name, value in rnd.predictor.state_dict().items())
    assert not any(parameter.requires_grad for parameter in rnd.target.parameters())


def test_the_seed_decides_both_networks(rollout: Rollout) -> None:
    torch.manual_seed(1)
    one = train(curious(seed=3), rollout, 3)
    torch.manual_seed(2)
    assert all(map(torch.equal, train(curious(seed=3), rollout, 3), one))
    assert not torch.equal(train(curious(seed=4), rollout, 1)[0], one[0])


def test_the_rollout_is_left_as_it_was(rollout: Rollout) -> None:
    before = copy.deepcopy(vars(rollout))
    train(curious(), rollout, 2)
    torch.testing.assert_close(
        {name: value for name, value in vars(rollout).items() if isinstance(value, Tensor)},
        {name: value for name, value in before.items() if isinstance(value, Tensor)},
        rtol=0,
        atol=0,
    )


def test_a_saved_one_goes_on_alike(rollout: Rollout) -> None:
    rnd, loaded = curious(), curious(seed=9)
    train(rnd, rollout, 5)
    file = io.BytesIO()
    torch.save(rnd.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(copied_tensors(loaded), copied_tensors(rnd), rtol=0, atol=0)
    # The second and third depend on the optimizer's moments.
    for one, other in zip(train(rnd, rollout, 3), train(loaded, rollout, 3), strict=True):
        assert torch.equal(one, other)
    states = rnd.get_extra_state(), loaded.get_extra_state()
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert states[0]["count"] == 8


def copied_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("shape", wrong) for wrong in (4, "4", None, ("4",), (0,), (1.5,))),
        *(("num_envs", wrong) for wrong in (0, 1.5, None, "8")),
        *(("gamma", wrong) for wrong in (2.0, math.nan, "x")),
        *(("coef", wrong) for wrong in (-1.0, None)),
        *(("seed", wrong) for wrong in (-1, None, [1])),
        *(("device", wrong) for wrong in ("abacus", None, 1.5)),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name: str, wrong: object) -> None:
    with pytest.raises(InvalidConfig, match=rf"^(rnd_)?{name}: expected"):
        RND(**{"shape": (4,), "num_envs": NUM_ENVS, name: wrong})


def test_a_number_that_is_not_finite_does_not_spoil_the_statistics(rollout: Rollout) -> None:
    rnd = curious()
    train(rnd, rollout, 2)
    before = copied(rnd.normalizer)
    rollout.final_obs[3, 2, 1] = math.nan
    train(rnd, rollout, 1)
    torch.testing.assert_close(copied(rnd.normalizer), before, rtol=0, atol=0)
    assert rnd.scale.moments.var.isfinite()
    assert rnd.scale.returns.isfinite().all()
    assert all(parameter.isfinite().all() for parameter in rnd.parameters())


def test_what_cannot_be_predicted_is_not_learned_from(rollout: Rollout) -> None:
    rnd = curious()
    train(rnd, rollout, 2)
    before = copied_tensors(rnd)
    rollout.final_obs.fill_(math.nan)
    train(rnd, rollout, 1)
    # Discounted returns that a bonus of NaN went into begin anew.
    before["scale.returns"].zero_()
    torch.testing.assert_close(copied_tensors(rnd), before, rtol=0, atol=0)


def test_the_optimizer_moves_along_with_the_networks() -> None:
    rnd = curious().to(torch.float64)
    state = rnd.get_extra_state()
    assert {tensor.dtype for tensor in (*state["means"], *state["squares"])} == {torch.float64}
