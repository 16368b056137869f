"""This library's ways to step environments, as contenders, and what they cost in bytes and operations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch

import operant_gpu
from operant_gpu import CudaEnvironment, VecEnv
from operant_gpu.backends.lowering.trial import try_out
from operant_gpu.cli.timing import Contender, waiter
from operant_gpu.models import MLPPolicy, PPOConfig
from operant_gpu.vector.graphs import captured

# Batches of actions that single steps cycle through.
ACTION_BATCHES = 16
# Environment steps of one rollout: enough to hide the call, few enough for the memory of given actions.
ROLLOUT_WORK = 1 << 24 if torch.cuda.is_available() else 1 << 21
OUTPUTS = ("obs", "action", "reward", "terminated", "truncated", "final_obs")
HIDDEN = (64, 64)
# Devices and backends.
Places = list[tuple[str, str]]


def random_actions(env: str, num_envs: int) -> list[np.ndarray[Any, Any]]:
    """Return the batches of actions that single steps of every contender take."""
    definition: Any = operant_gpu.registry.find(env)
    space: Any = definition.spaces(definition.make_params({}))[1]
    rng = np.random.default_rng(0)
    if isinstance(space, gymnasium.spaces.Discrete):
        return [rng.integers(int(space.n), size=num_envs) for _ in range(ACTION_BATCHES)]
    low, high = space.low, space.high
    return [rng.uniform(low, high, (num_envs, *low.shape)).astype(np.float32) for _ in range(ACTION_BATCHES)]


def places() -> Places:
    """Return the devices and backends that work here."""
    names = [("cpu", "numpy")]
    if operant_gpu.make("CartPole-v1", device="cpu").backend == "numba":
        names.append(("cpu", "numba"))
    return [*names, ("cuda", "triton")] if torch.cuda.is_available() else names


def single_steps(
    env: str, num_envs: int, actions: list[np.ndarray[Any, Any]], where: Places | None = None
) -> Iterator[Contender]:
    """Yield one call a step, on each backend or those given, and on a GPU as a graph."""
    for device, backend in where or places():
        vec = started(env, num_envs, device, backend)
        yield Contender(f"step, {backend}", stepper(vec, actions), waiter(device), num_envs, step_cost(env, num_envs))
        if device == "cuda":
            yield graph_replay(env, num_envs, actions, backend)


def rollouts(env: str, num_envs: int, where: Places | None = None) -> Iterator[Contender]:
    """Yield many steps a call: random actions, given ones, and a network's, on each backend or those given."""
    for device, backend in where or places():
        vec = started(env, num_envs, device, backend)
        steps = min(1024, max(8, ROLLOUT_WORK // num_envs))
        given = vec.rollout(steps, out=("action",))["action"]
        config = PPOConfig(hidden_sizes=HIDDEN, cnn_channels=())
        network = MLPPolicy(vec.single_observation_space, vec.single_action_space, config).to(vec.device)
        # A network costs a thousand times the step.
        few = max(1, steps // (16 if device == "cuda" else 128))
        policies = {"random": ("random", steps), "given": (given, steps), "network": (network, few)}
        for name, (policy, length) in policies.items():
            yield rollout_contender(f"rollout {name}, {backend}", env, vec, policy, length)
        out = vec.rollout(few, network, out=(*OUTPUTS, "log_prob", "value", "final_value"))
        yield rollout_contender(f"rollout network stored, {backend}", env, vec, network, few, out)


def rollout_contender(name: str, env: str, vec: VecEnv, policy: Any, steps: int, out: Any = ()) -> Contender:
    """Return rollouts of this length, one call each."""
    work = vec.num_envs * steps
    notes = {"steps_per_call": steps, **rollout_cost(env, vec, policy, steps, out)}
    return Contender(name, lambda _: vec.rollout(steps, policy, out=out), waiter(vec.device), work, notes)


def output_costs(env: str, num_envs: int, device: str, backend: str) -> Iterator[Contender]:
    """Yield random rollouts that store nothing, each output alone, and all of them."""
    vec = started(env, num_envs, device, backend)
    steps = min(1024, max(8, ROLLOUT_WORK // num_envs // 4))
    for names in ((), *((name,) for name in OUTPUTS), OUTPUTS):
        out = vec.rollout(steps, out=names)
        label = "all" if names == OUTPUTS else " ".join(names) or "nothing"
        yield rollout_contender(label, env, vec, "random", steps, out)


def started(env: str, num_envs: int, device: str, backend: str) -> VecEnv:
    """Return environments that are ready for steps."""
    vec = operant_gpu.make(env, num_envs, device=device, backend=backend)
    vec.reset(seed=0)
    return vec


def stepper(vec: VecEnv, actions: list[np.ndarray[Any, Any]]) -> Any:
    """Return the function that takes step number i."""
    batches = [torch.as_tensor(batch, device=vec.device) for batch in actions]
    return lambda i: vec.step(batches[i % ACTION_BATCHES])


def graph_replay(env: str, num_envs: int, actions: list[np.ndarray[Any, Any]], backend: str) -> Contender:
    """Return single steps on a GPU, each a replay of a captured launch."""
    vec = started(env, num_envs, "cuda", backend)
    step = stepper(vec, actions)
    step(0)
    graphs = [captured(functools.partial(step, number))[0] for number in range(len(actions))]

    def replay(number: int, _memory: Any = step) -> None:
        # The graphs write to memory that must live as long as they.
        graphs[number % ACTION_BATCHES].replay()

    return Contender(f"step, {backend} graph", replay, torch.cuda.synchronize, num_envs, step_cost(env, num_envs))


def bytes_of_step(env: str) -> tuple[int, int]:
    """Return the bytes of one environment that a step reads and writes, and those among them that it keeps."""
    device, backend = "cpu", "numpy"
    if isinstance(operant_gpu.registry.find(env), CudaEnvironment):
        device, backend = ("cuda", "cuda") if torch.cuda.is_available() else ("cpu", "cpp")
    vec = started(env, 1, device, backend)
    action = torch.as_tensor(random_actions(env, 1)[0], device=vec.device)
    obs, reward, terminated, truncated, info = vec.step(action)
    clock = [info["_episode"], info["episode"]["r"], info["episode"]["l"], torch.zeros(1, dtype=torch.int32)]
    kept = sum(2 * int(tensor.nbytes) for tensor in (*vec.state, *clock))
    once = [action, obs, info["final_obs"], reward, terminated, truncated]
    return kept + sum(int(tensor.nbytes) for tensor in once), kept


def step_cost(env: str, num_envs: int) -> dict[str, int]:
    """Return the bytes that one call moves."""
    return {"bytes_per_call": bytes_of_step(env)[0] * num_envs}


def rollout_cost(env: str, vec: VecEnv, policy: Any, steps: int, out: Any) -> dict[str, int]:
    """Return the bytes and the floating-point operations of matrix products of one call."""
    actions = policy.nbytes if isinstance(policy, torch.Tensor) else 0
    stored = sum(int(tensor.nbytes) for tensor in dict(out).values())
    cost = {"bytes_per_call": bytes_of_step(env)[1] * vec.num_envs + actions + stored}
    network = getattr(policy, "mlp", None)
    if network is not None:
        weights = sum(int(np.prod(shape)) for shape in network.layout.shapes if len(shape) == 2)
        cost["flop_per_call"] = 2 * weights * vec.num_envs * steps
    return cost


def operations_of_step(env: str) -> int:
    """Return how many arithmetic operations the environment's step function is, a sine counted as one."""
    environment: Any = operant_gpu.registry.find(env)
    programs = try_out(environment, environment.make_params({})).programs
    assert programs is not None
    return len(programs.step.calls)
