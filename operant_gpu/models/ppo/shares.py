"""A learner's share of what several processes learn together: how they begin, and what a checkpoint makes of them.

A checkpoint of several processes is that of one with all their environments, and `ranks`, what each has for itself. So
any number of processes can go on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from operant_gpu.errors import InvalidConfig
from operant_gpu.machine import versions
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo.loop import digest
from operant_gpu.models.ppo.rnd import IntrinsicReward
from operant_gpu.models.ppo.telemetry import EPISODES
from operant_gpu.parameters import described
from operant_gpu.processes import CHECKPOINT, Processes
from operant_gpu.vector import VecEnv, shares

if TYPE_CHECKING:
    from operant_gpu.environment import Definition
    from operant_gpu.models.ppo.learner import PPO

# What a learner has for itself, and the rows of environments in what it has in common with others.
_OWN = ("environments", "memory", "generators", "telemetry")
_ROWS = {"reward_normalizer": "returns", "intrinsic": "scale.returns"}


def seed_of(seed: int, rank: int) -> int:
    """Return the seed of what a process draws from PyTorch's generators: the given one in the first."""
    return seed if rank == 0 else int(np.random.SeedSequence((seed, rank)).generate_state(1, np.uint64)[0] >> 1)


def join(
    processes: Processes, env: VecEnv, policy: Policy, intrinsic: IntrinsicReward | None, config: PPOConfig
) -> None:
    """Check that all processes have what learns together, give their environments ids of their own, and one policy.

    Raises:
        InvalidConfig: If they differ in settings, environments, network or versions, or share a GPU or ids.
    """
    if processes.size == 1:
        return
    environments = {
        "env": env.environment.id,
        "num_envs": env.num_envs,
        "params": described(env.given),
        "tables and shared parameters": _digest_of_shared(env),
        "max_episode_steps": env.max_episode_steps,
        "backend": env.backend,
    }
    network = [(name, tuple(one.shape), str(one.dtype)) for name, one in policy.named_parameters()]
    processes.check_same({**asdict(config), **environments, "network": network, "versions": versions()})
    if env.device.type == "cuda":
        cards = processes.gather_objects(str(torch.cuda.get_device_properties(env.device).uuid))
        if len(set(cards)) < processes.size:
            message = f"several processes have environments on the GPU that is {env.device} here: start one for each"
            raise InvalidConfig("device", f"{message}, within operant_gpu.models.distributed()")
        if "nccl" not in (backend := processes.backend):
            message = f"environments on GPUs need a process group with NCCL, got one with {backend}"
            raise InvalidConfig("processes", f"{message}: init_process_group('cpu:gloo,cuda:nccl')")
    first, *others = ids = processes.gather_objects(env.first_env_id)
    if all(other == first for other in others):
        env.first_env_id = first + processes.rank * env.num_envs
    elif ids != [first + rank * env.num_envs for rank in range(processes.size)]:
        message = f"the environments' ids begin at {', '.join(map(str, ids))}, with {env.num_envs} in each process"
        raise InvalidConfig("first_env_id", f"{message}: leave it out, or give rank * num_envs")
    modules = [policy] if intrinsic is None else [policy, intrinsic]
    processes.broadcast([tensor for one in modules for tensor in (*one.parameters(), *one.buffers())])


def whole_state(learner: PPO) -> tuple[dict[str, Any], dict[str, Any], PPOConfig] | None:
    """Return state, parameters and settings of a learner with the environments of all processes, in the first one."""
    processes, config, env = learner.processes, learner.config, learner.env
    state = learner.state_dict()
    if processes.size == 1:
        return state, env.given, config
    own = {name: state[name] for name in _OWN} | {
        name: state[name][row] for name, row in _ROWS.items() if row in state.get(name, {})
    }
    processes.meet(CHECKPOINT)
    every = processes.gather_objects((_on_cpu(own), _on_cpu(env.given)), to_all=False)
    if processes.rank:
        return None
    states, given = [one for one, _ in every], [one for _, one in every]
    names = env.environment.params._fields
    environments, params = shares.joined([one["environments"] for one in states], given, names)
    telemetry, sums = state["telemetry"], torch.stack([one["telemetry"]["sums"] for one in states])
    total = sums[0].clone()
    total[EPISODES] = sums[:, EPISODES].sum(0)
    whole = {
        **state,
        "environments": environments,
        "memory": {name: torch.cat([one["memory"][name] for one in states]) for name in state["memory"]},
        "telemetry": {
            **telemetry,
            "sums": total,
            "is_whole": torch.cat([one["telemetry"]["is_whole"] for one in states]),
        },
        "ranks": [{"generators": one["generators"], "sums": one["telemetry"]["sums"]} for one in states],
    }
    for name, row in _ROWS.items():
        if row in state.get(name, {}):
            whole[name] = {**state[name], row: torch.cat([one[name] for one in states])}
    return whole, params, scaled(config, env.num_envs * processes.size, processes.size, 1)


def scaled(config: PPOConfig, num_envs: int, before: int, now: int) -> PPOConfig:
    """Return the settings of one of `now` processes with so many environments each, for those of one of `before`."""
    if config.batch_size is None:
        return replace(config, num_envs=num_envs)
    # What a minibatch has to have at least; see `PPOConfig`.
    least = config.n_steps if config.gru_size else 2 if config.normalize_advantages else 1
    return replace(config, num_envs=num_envs, batch_size=max(least, config.batch_size * before // now))


def check_even(total: int, size: int) -> None:
    """Check that environments can be dealt out to processes."""
    if total % size:
        message = f"the {total} environments of the checkpoint cannot be dealt out evenly to {size} processes"
        raise InvalidConfig("num_envs", f"{message}: start a number of them that divides {total}")


def share_of(saved: Mapping[str, Any], processes: Processes) -> dict[str, Any]:
    """Return what a process takes of a checkpoint, but for the environments: draws, and what was counted."""
    ranks, rank = saved.get("ranks", ()), processes.rank
    telemetry = dict(saved["telemetry"])
    if len(ranks) == processes.size:
        telemetry["sums"] = ranks[rank]["sums"]
    elif rank:
        # The first one has what all have counted.
        telemetry["sums"] = telemetry["sums"].clone()
        telemetry["sums"][EPISODES] = 0.0
    generators = ranks[rank]["generators"] if rank < len(ranks) else saved["generators"]
    if rank >= max(1, len(ranks)):
        # Draws of its own, from the seed on.
        generators = {**generators, "device": "none"}
    return {**saved, "telemetry": telemetry, "generators": generators}


def dealt(saved: Mapping[str, Any], definition: Definition, processes: Processes) -> dict[str, Any]:
    """Return a checkpoint with the environments that a process takes of it.

    Raises:
        InvalidConfig: If they cannot be dealt out evenly.
    """
    rank, size, total = processes.rank, processes.size, saved["num_envs"]
    if size == 1:
        return dict(saved)
    check_even(total, size)
    names = definition.params._fields
    environments, params = shares.dealt(saved["environments"], saved["params"], names, rank, size)

    def rows(tensor: Tensor) -> Tensor:
        return tensor.narrow(0, rank * (total // size), total // size)

    telemetry = dict(saved["telemetry"])
    if "is_whole" in telemetry:
        telemetry["is_whole"] = rows(telemetry["is_whole"])
    share = {
        **saved,
        "num_envs": total // size,
        "params": params,
        "environments": environments,
        "memory": {name: rows(one) for name, one in saved["memory"].items()},
        "telemetry": telemetry,
    }
    for name, row in _ROWS.items():
        if row in saved.get(name, {}):
            share[name] = {**saved[name], row: rows(saved[name][row])}
    return share


def _digest_of_shared(env: VecEnv) -> float:
    """Return a digest of the tensors that all environments have in common."""
    parameters = [one for one in env.params if isinstance(one, Tensor) and one.ndim == 0]
    return digest([*parameters, *env.tables, torch.zeros(1, device=env.device)]).item()


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {name: _on_cpu(one) for name, one in value.items()}
    return value
