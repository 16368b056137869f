"""What a rollout has to equal: the same steps taken one by one, random actions and networks computed by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from contract_envs import CASES, FORMS, assert_same_tensors, everything, in_modes, make_cpu, random_actions
from gymnasium import spaces

from operant_gpu import AutoresetMode, Environment, VecEnv
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.lang import jit, tl
from operant_gpu.mlp import MLP, MLPLayout
from operant_gpu.random import uniform
from operant_gpu.spaces import ActionLayout, action_layout, observation_layout

NUM_ENVS = 13
# Short episodes: the runs see many ends.
LIMIT = 3
# What only a network gives.
NETWORK_NAMES = ("policy_action", "log_prob", "value", "final_value")

# NumPy's are a loop over its steps, Triton's a kernel in the interpreter: of an environment, both see the form alone.
ROLLED_OUT = [(name, backend) for name, backend in CASES if backend in ("numba", "cpp") or name in FORMS]
every_environment, every_form = in_modes(ROLLED_OUT), in_modes(ROLLED_OUT, tells_modes=False)

Outputs = dict[str, torch.Tensor]


class NoiseState(NamedTuple):
    noise: tl.float32


@jit
def noise_reset(rng, params):
    return NoiseState(uniform(rng, 0))


@jit
def noise_step(state, action, rng, params):
    return NoiseState(uniform(rng, 0)), action[0], False


@jit
def noise_observe(state, params):
    return (state.noise,)


# Shows the first draw of its streams; an observation without axes.
Noise = Environment(
    id="Noise-v0",
    state=NoiseState,
    reset=noise_reset,
    step=noise_step,
    observe=noise_observe,
    observation_space=spaces.Box(0.0, 1.0, ()),
    action_space=spaces.Box(np.array([0.0, -5.0], np.float32), np.array([1.0, 3.0], np.float32)),
    max_episode_steps=4,
)


class Policy(NamedTuple):
    """What `rollout` takes for a network."""

    mlp: Any


def make(name: str, backend: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, **settings: Any) -> VecEnv:
    num_envs = settings.pop("num_envs", NUM_ENVS)
    return make_cpu(name, num_envs, backend, autoreset_mode=mode, **{"max_episode_steps": LIMIT, **settings})


def started(name: str, backend: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, **settings: Any) -> VecEnv:
    """Return environments after a reset."""
    env = make(name, backend, mode, **settings)
    env.reset(seed=1)
    return env


def output_names(env: VecEnv) -> list[str]:
    """Return all that can be stored without a network."""
    mask = [] if env.action_mask is None else ["action_mask"]
    return ["obs", *mask, "action", "reward", "terminated", "truncated", "final_obs"]


def all_names(env: VecEnv) -> list[str]:
    """Return all that can be stored with a network."""
    return [*output_names(env), *NETWORK_NAMES]


def given_actions(env: VecEnv, steps: int, seed: int = 0) -> torch.Tensor:
    """Return actions for many steps; those of a Box leave its bounds, which is for the environment to judge."""
    rng = np.random.default_rng(seed)
    actions = torch.stack([random_actions(env, rng) for _ in range(steps)])
    return 1.5 * actions if actions.is_floating_point() else actions


def assert_taken(env: VecEnv, network: MLP, drawn: torch.Tensor, taken: torch.Tensor) -> None:
    """Check that environments got what a network drew, scaled and in their bounds, of which none may be left."""
    layout = action_layout(env.single_action_space)
    if layout.is_discrete:
        assert torch.equal(taken, drawn)
        return
    low, high = (np.array(bound, np.float64) for bound in (layout.box_low, layout.box_high))
    scales = network.scales_actions & np.isfinite(high - low) & (low < high)
    with np.errstate(invalid="ignore"):
        center, radius = np.where(scales, (low + high) / 2, 0.0), np.where(scales, (high - low) / 2, 1.0)
    expected = (center + radius * drawn.double().numpy()).clip(low, high)
    found = taken.double().numpy()
    # Of the sum's terms, which are rounded to float32.
    bound = 2.0**-22 * (np.abs(center) + np.abs(radius * drawn.double().numpy()))
    assert (np.abs(found - expected) <= bound).all()
    assert ((found >= low) & (found <= high)).all()


def as_drawn(env: VecEnv, actions: torch.Tensor) -> torch.Tensor:
    """Return actions as distributions count them: discrete ones from zero."""
    layout = action_layout(env.single_action_space)
    if not layout.is_discrete:
        return actions
    return actions - torch.tensor(layout.low if layout.shape else layout.low[0], device=actions.device)


def policy_stream(env: VecEnv) -> NumpyRng:
    """Return the stream of the actions of the step that comes."""
    columns = {name: tensor.cpu().numpy() for name, tensor in everything(env).items()}
    elapsed = columns["columns.elapsed"]
    if env.autoreset_mode is not AutoresetMode.DISABLED:
        elapsed = np.where(columns["columns.ended"], 0, elapsed)
    key = (columns[f"columns.{name}"] for name in ("seed", "env_id", "episode"))
    return NumpyRng(*key, elapsed, 2 << 28)


def single_steps(env: VecEnv, actions: torch.Tensor) -> Outputs:
    """Take the steps one by one; return what a rollout would have stored."""
    obs, rows = env.observe(), []
    for action in actions:
        row = {"obs": obs.clone(), "action": action}
        if env.action_mask is not None:
            row["action_mask"] = env.action_mask.clone()
        _, reward, terminated, truncated, info = env.step(action)
        after = {"reward": reward, "terminated": terminated, "truncated": truncated, "final_obs": info["final_obs"]}
        rows.append(row | {name: tensor.clone() for name, tensor in after.items()})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def single_steps_and_streams(env: VecEnv, actions: torch.Tensor) -> tuple[Outputs, list[NumpyRng]]:
    """Take the steps one by one; return also the streams that a policy would have drawn from at each."""
    parts, streams = [], []
    for action in actions:
        streams.append(policy_stream(env))
        parts.append(single_steps(env, action[None]))
    return joined(*parts), streams


def future(env: VecEnv) -> Outputs:
    """Return all that decides the future but late steps, which rollouts do not count."""
    return {name: tensor for name, tensor in everything(env).items() if name != "columns.late_steps"}


def assert_same_environments(env: VecEnv, reference: VecEnv) -> None:
    assert_same_tensors(future(env), future(reference))


def joined(*parts: Outputs) -> Outputs:
    """Return the outputs of rollouts that followed each other as those of one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def random_by_hand(layout: ActionLayout, stream: NumpyRng, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the actions of the random policy, from the words of its stream."""
    words = [stream.compute(i // 4)[i % 4] for i in range(layout.size)]
    if not layout.is_discrete:
        units = [(word >> 8).astype(np.float32) * np.float32(2**-24) for word in words]
        spans = [np.float32(high - low) for low, high in zip(layout.box_low, layout.box_high)]
        floats = [unit * span + np.float32(low) for unit, span, low in zip(units, spans, layout.box_low)]
        return torch.from_numpy(np.stack(floats, -1))
    parts = []
    for word, first, low, high in zip(words, layout.first_choices, layout.low, layout.high):
        shape = (len(word), high - low)
        legal = np.ones(shape, bool) if mask is None else mask[:, first : first + high - low].numpy()
        rank = (word.astype(np.uint64) * legal.sum(1).astype(np.uint64)) >> np.uint64(32)
        # The legal one that has as many legal ones before it.
        parts.append(low + (legal & (legal.cumsum(1) - 1 == rank[:, None].astype(int))).argmax(1))
    return torch.from_numpy(np.stack(parts, -1) if layout.shape else parts[0])


def is_legal(env: VecEnv, action: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Tell for each entry (..., num_envs) whether each component is one of its choices, and a legal one."""
    layout = action_layout(env.single_action_space)
    parts = action if layout.shape else action[..., None]
    legal = torch.ones(parts.shape[:-1], dtype=torch.bool)
    for i, (low, high, first) in enumerate(zip(layout.low, layout.high, layout.first_choices)):
        choice = parts[..., i] - low
        legal &= (choice >= 0) & (choice < high - low)
        if mask is not None:
            column = first + choice.clamp(0, high - low - 1)
            legal &= mask.gather(-1, column[..., None])[..., 0]
    return legal


def make_network(env: VecEnv, hidden_sizes: tuple[int, ...] = (8,), seed: int = 0, **changes: Any) -> MLP:
    """Return a network of random weights for an environment; `changes` are fields of its layout or its own."""
    actions = action_layout(env.single_action_space)
    seen = observation_layout(env.single_observation_space)
    inputs = int(np.prod(seen.seen))
    outputs = actions.num_actions if actions.is_discrete else actions.size
    layout = MLPLayout(inputs, hidden_sizes, outputs, "tanh", True, not actions.is_discrete, seen.one_hot_start)
    layout = layout._replace(**{name: changes.pop(name) for name in list(changes) if name in layout._fields})
    parameters = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed)) * 0.7
    return MLP(**{"parameters": parameters, "layout": layout, "precision": "ieee", "scales_actions": True, **changes})


class Evaluation(NamedTuple):
    """What a network says of observations (batch, inputs), in float64."""

    outputs: np.ndarray
    values: np.ndarray
    log_std: np.ndarray


def evaluate_by_hand(network: MLP, obs: torch.Tensor) -> Evaluation:
    """Evaluate a network, reading its numbers one after the other."""
    layout, position = network.layout, 0
    numbers, x, shift, scale = (
        None if tensor is None else tensor.detach().cpu().double().numpy()
        for tensor in (network.parameters, obs, network.shift, network.scale)
    )

    def take(*shape: int) -> np.ndarray:
        nonlocal position
        start, position = position, position + int(np.prod(shape))
        return numbers[start:position].reshape(shape)

    def trunk(x: np.ndarray) -> np.ndarray:
        for width in layout.hidden_sizes:
            weight, bias = take(width, x.shape[1]), take(width)
            x = x @ weight.T + bias
            x = np.tanh(x) if layout.activation == "tanh" else np.maximum(x, 0.0)
        return x

    x = x.reshape(len(x), -1)
    if layout.obs_start is not None:
        x = np.eye(layout.inputs)[x[:, 0].astype(int) - layout.obs_start]
    if shift is not None:
        x = ((x - shift) * scale).clip(-network.clip, network.clip)
    actor = trunk(x)
    critic = actor if layout.shared_trunk else trunk(x)
    outputs = actor @ take(layout.outputs, actor.shape[1]).T + take(layout.outputs)
    values = critic @ take(1, critic.shape[1]).T + take(1)
    log_std = take(layout.outputs) if layout.is_gaussian else np.zeros(0)
    assert position == len(numbers)
    return Evaluation(outputs, values[:, 0], log_std)
