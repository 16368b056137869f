"""Networks in rollouts beside PyTorch, the fused engine's gradient beside autograd, a training beside itself."""

from __future__ import annotations

import copy
import types
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from operant_gpu.backends.lowering.trial import try_out
from operant_gpu.errors import BackendError, InvalidConfig, one_line
from operant_gpu.hyperparameters import AdamState, Samples
from operant_gpu.memory.trajectory import NETWORK_OUTPUTS
from operant_gpu.models import PPO, MLPPolicy, PPOConfig
from operant_gpu.models.policies.normalization import ObservationNormalizer
from operant_gpu.models.ppo.fused import kernels_for
from operant_gpu.models.ppo.rollout import Minibatch
from operant_gpu.models.ppo.schedules import Schedules
from operant_gpu.models.ppo.update import objective
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.vector import VecEnv
from operant_gpu.verification import stepping
from operant_gpu.verification.comparing import Differs, Inapplicable, Unavailable, assert_below, assert_equal
from operant_gpu.verification.stepping import ON_GPU, SEED, Maker, chance, started, stored_names

# Of 1 and the number's size, of the gradient's norm: by the precision of products.
_NETWORK, _GRADIENT = {"float32": 1e-4, "tf32": 2e-2}, {"ieee": 1e-5, "tf32": 2e-3}
# Images are flattened: there are kernels for small networks of layers alone.
_CONFIG = PPOConfig(
    n_steps=16,
    batch_size=512,
    n_epochs=2,
    hidden_sizes=(64, 64),
    cnn_channels=(),
    ent_coef=0.02,
    seed=SEED,
    normalize_observations=True,
)
# What is launched at first, captured, and replayed.
_ITERATIONS = 3


def compare_network(make: Maker) -> str:
    """Let a network act, and PyTorch evaluate it in float64 for the same observations and actions."""
    env = started(make)
    policy = _policy(env)
    stored = _acted(env, policy)
    # With arrays or CUDA C++ networks are evaluated by PyTorch, between steps.
    is_kernel = env.backend == "triton" and try_out(env.environment, env.params, env.tables).width == 1
    precision = policy.precision if is_kernel else "float32"
    exact, rows = in_float64(policy), _rows(env, stored)
    with torch.no_grad():
        expected = exact.evaluate(rows[0], rows[1], None, None, rows[2])
        following = exact.value(stored["final_obs"].cpu().flatten(0, 1), None, None)
    is_cut = (stored["truncated"] & ~stored["terminated"]).flatten().cpu()
    found = {name: stored[name].flatten().cpu().double() for name in ("log_prob", "value", "final_value")}
    pairs = {
        "log_prob": (found["log_prob"], expected.log_prob),
        "value": (found["value"], expected.value),
        "final_value": (found["final_value"][is_cut], following[is_cut]),
    }
    errors = [
        assert_below(name, float(((one - other).abs() / (1.0 + other.abs())).max()), _NETWORK[precision])
        for name, (one, other) in pairs.items()
        if len(other)
    ]
    return f"{stepping.STEPS * env.num_envs:,} steps in {precision}: log_prob and values within {max(errors):.2g}"


def compare_gradient(make: Maker, precision: str) -> str:
    """Take one gradient step of the fused engine, which does not move the network, beside autograd in float64."""
    env = started(make)
    if precision == "tf32" and env.backend not in ON_GPU:
        raise Inapplicable("on a CPU, products are float32's")
    policy = _policy(env)
    stored = _acted(env, policy)
    # Of the products in the update, too.
    policy.precision = precision
    noise = torch.randn(2, stepping.STEPS, env.num_envs, generator=torch.Generator().manual_seed(SEED)).to(env.device)
    # As after some steps: ratios on both sides of the clip.
    log_probs, advantages = stored["log_prob"] + 0.2 * noise[0], 3.0 * noise[1]
    gradient = _fused_gradient(env, policy, stored, log_probs, advantages)

    exact, (obs, actions, masks) = in_float64(policy), _rows(env, stored)
    old, values, gains = (one.flatten().cpu().double() for one in (log_probs, stored["value"], advantages))
    batch = Minibatch(obs, actions, old, values, gains, gains + values, masks, None, None)
    now = Schedules(_CONFIG, {}, 1, torch.device("cpu")).now
    loss, _ = objective(exact, now, batch, _CONFIG.normalize_advantages)
    parameters = list(exact.parameters())
    expected = torch.autograd.grad(loss, parameters)
    found = torch.split(gradient.cpu().double(), [one.numel() for one in expected])
    whole, errors = torch.cat([one.flatten() for one in expected]).norm(), []
    for (name, _), one, other in zip(exact.named_parameters(), found, expected, strict=True):
        distance = (one - other.flatten()).norm() / other.norm().maximum(0.01 * whole)
        errors.append(assert_below(f"gradient of {name}", float(distance), _GRADIENT[precision]))
    return f"{gains.numel():,} samples: within {max(errors):.2g}"


def compare_trainings(make: Maker) -> str:
    """Train twice with the same seed."""
    runs = []
    for _ in range(2):
        env = make(64)
        try:
            learner = PPO(env, _config(env))
        except InvalidConfig as error:
            raise Inapplicable(f"PPO does not train it: {one_line(error)}") from error
        learner.learn(_ITERATIONS * _CONFIG.n_steps * env.num_envs)
        if learner._loop.failure is not None:
            raise Differs(f"an iteration cannot be captured in a graph: {learner._loop.failure}")
        runs.append(learner.policy.state_dict())
    for name, tensor in runs[0].items():
        assert_equal(name, tensor, runs[1][name])
    return f"{_ITERATIONS} iterations, {learner.engine}: equal in bits"


def in_float64(policy: MLPPolicy) -> MLPPolicy:
    """Return a copy of a policy on the CPU, without its casts to float32."""
    copied: Any = copy.deepcopy(policy).cpu().double()

    def forward(self: Any, obs: Tensor, state: None, starts: None) -> tuple[Tensor, Tensor, None]:
        obs = obs.double() if self.normalizer is None else self.normalizer(obs.double()).double()
        return (*self.network(obs), None)

    copied.forward = types.MethodType(forward, copied)
    exact: MLPPolicy = copied
    return exact


def _config(env: VecEnv) -> PPOConfig:
    """Return the settings: what is seen one-hot is not normalized."""
    is_discrete = observation_layout(env.single_observation_space).choices > 0
    return replace(_CONFIG, normalize_observations=not is_discrete)


def _policy(env: VecEnv) -> MLPPolicy:
    """Return a network that is not too sure of what it does, with the scaling that the environments need."""
    try:
        policy = MLPPolicy(env.single_observation_space, env.single_action_space, _config(env))
    except InvalidConfig as error:
        raise Inapplicable(f"no small network acts in it: {one_line(error)}") from error
    seen = env.rollout(stepping.STEPS, chance(env, stepping.STEPS), out=stored_names(env))["obs"]
    if not seen.isfinite().all():
        raise Inapplicable("its observations are not finite")
    if isinstance(policy.normalizer, ObservationNormalizer):
        policy.normalizer.update(seen.cpu())
    policy.flat.add_(0.1 * torch.randn(policy.flat.shape, generator=torch.Generator().manual_seed(SEED)))
    return policy.to(env.device)


def _acted(env: VecEnv, policy: MLPPolicy) -> dict[str, Tensor]:
    """Return a rollout in which a policy acts."""
    return env.rollout(stepping.STEPS, policy, out=[*stored_names(env), *NETWORK_OUTPUTS])


def _rows(env: VecEnv, stored: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return observations, actions and masks of a rollout: a row a step, on the CPU."""
    masks = stored["action_mask"].cpu().flatten(0, 1) if "action_mask" in stored else None
    return stored["obs"].cpu().flatten(0, 1), stored["policy_action"].cpu().flatten(0, 1), masks


def _fused_gradient(
    env: VecEnv, policy: MLPPolicy, stored: dict[str, Tensor], log_probs: Tensor, advantages: Tensor
) -> Tensor:
    mlp, device = policy.mlp, env.device
    masks = stored["action_mask"].contiguous() if "action_mask" in stored else None
    obs, actions = stored["obs"].reshape(*stored["reward"].shape, -1).contiguous(), stored["policy_action"].contiguous()
    samples = Samples(obs, actions, masks, log_probs, stored["value"], advantages)
    config = replace(_CONFIG, max_grad_norm=1e9, n_epochs=1, batch_size=advantages.numel())
    means, squares = torch.zeros(mlp.layout.size, device=device), torch.zeros(mlp.layout.size, device=device)
    updates = torch.zeros((), device=device)
    zero = torch.zeros((), dtype=torch.int32, device=device)
    asked = mlp, action_layout(env.single_action_space), config, samples
    try:
        kernels = kernels_for(env)
        misfit = kernels.find_misfit(*asked)
    except (ImportError, BackendError) as error:
        raise Unavailable(f"there are no fused kernels here: {one_line(error)}") from error
    if misfit:
        raise Inapplicable(f"not fused: {misfit}")
    update: Any = kernels.GradientSteps(*asked, advantages.numel())
    trainable = torch.ones(len(mlp.layout.shapes), dtype=torch.bool, device=device)
    adam, schedules = AdamState(means, squares, updates), Schedules(config, {}, 1, device)
    schedules.now.lr.zero_()
    update.run(mlp, samples, adam, schedules.values, seed=SEED, iteration=zero, trainable=trainable, status=zero)
    # Adam's first means are a tenth of the gradient.
    return 10.0 * means
