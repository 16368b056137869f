"""Environments in CUDA C++ do on a GPU what they do in C++ on a CPU: NVRTC's PTX of each runs on the executor.

Threads of one warp race too, and each launch may touch the tensors that it was given alone. Functions that a GPU
approximates err as much as it may.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import (
    CUDA_MAKERS,
    MODES,
    assert_same_tensors,
    everything,
    invalid_actions,
    random_actions,
)
from network_rollouts import assert_network_rollout
from ptx_executor import Executor, MemoryFault, RaceFault
from ptx_executor.kernels import Queue
from rollouts import given_actions, make_network, output_names

from operant_gpu import AutoresetMode, VecEnv

pytest.importorskip("cupy", reason="compilation needs CuPy")

# Fills no block, nor a warp.
NUM_ENVS, STEPS, LIMIT = 41, 4, 3
# Those with functions of floats whose last bits are each library's own. All else is equal, floats bit for bit.
NEAR = {name: {"ulps": 8, "atol": 1e-6} for name in ("CudaDrift-v0", "CudaDrift-varied", "CudaFunctions-v0")}
CHECKS = {"strict_warps": True, "approximation": 1}
QUICK = [name for name in CUDA_MAKERS if not name.startswith("MinAtar")] + ["MinAtar-Breakout-v1"]
every_environment = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough) for name in CUDA_MAKERS]
)
every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name.lower())


@pytest.fixture(autouse=True)
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    from ptx_executor.cuda_driver import install

    found = Queue(Executor(**CHECKS))
    install(found, monkeypatch)
    return found


def pair(name: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = NUM_ENVS) -> list[VecEnv]:
    """Return environments on the executor, and in C++; both after a reset."""
    settings: dict[str, Any] = {"device": "cpu", "autoreset_mode": mode, "max_episode_steps": LIMIT}
    envs = [CUDA_MAKERS[name](num_envs, backend=backend, **settings) for backend in ("cuda", "cpp")]
    for env in envs:
        env.reset(seed=3)
    return envs


def shown(env: VecEnv, *results: Any) -> dict[str, torch.Tensor]:
    """Return all that a caller sees of an environment, with what a step has returned."""
    found = {f"result {i}": result for i, result in enumerate(results) if isinstance(result, torch.Tensor)}
    if results:
        found |= {"final_obs": results[-1]["final_obs"], **results[-1]["episode"]}
    if env.action_mask is not None:
        found["action_mask"] = env.action_mask
    return {name: tensor.clone() for name, tensor in {"obs": env.observe(), **found, **everything(env)}.items()}


@every_environment
@every_mode
def test_steps_and_resets_are_those_of_cpp(name: str, mode: AutoresetMode) -> None:
    """Each step begins in the same state, some actions are none that there are, some environments are begun anew."""
    executed, reference = pair(name, mode)
    near, rng = NEAR.get(name, {}), np.random.default_rng(0)
    for step in range(STEPS):
        executed.load_state_dict(reference.state_dict())
        assert_same_tensors(shown(executed), shown(reference), **near)
        actions = random_actions(reference, rng)
        if step % 2:
            actions = invalid_actions(reference, actions, [0, 31, 32, NUM_ENVS - 1])
        found, expected = (shown(env, *env.step(actions)) for env in (executed, reference))
        assert_same_tensors(found, expected, **near)
        if step == STEPS // 2:
            for env in (executed, reference):
                env.reset(options={"reset_mask": torch.arange(NUM_ENVS) % 3 == 0})
            assert_same_tensors(shown(executed), shown(reference), **near)
    counts = everything(reference)
    assert counts["columns.bad_actions"].any()
    assert counts["columns.log_count"].sum() > NUM_ENVS // 2


@every_environment
@every_mode
def test_rollouts_are_those_of_cpp(name: str, mode: AutoresetMode, queue: Queue) -> None:
    """In a random order of warps."""
    queue.executor = Executor(schedule=1, **CHECKS)
    executed, reference = pair(name, mode)
    near, names = NEAR.get(name, {}), output_names(reference)
    for policy in ("random", given_actions(reference, STEPS)):
        executed.load_state_dict(reference.state_dict())
        found, expected = (env.rollout(STEPS, policy, names) for env in (executed, reference))
        assert_same_tensors(found, expected, **near)
        assert_same_tensors(shown(executed), shown(reference), **near)


@every_environment
@every_mode
def test_a_network_acts_on_the_executor(name: str, mode: AutoresetMode) -> None:
    executed, reference = pair(name, mode)
    if name in NEAR:
        reference = pair(name, mode)[0]
    assert_network_rollout(executed, reference, make_network(reference), 3)


@every_environment
def test_draws_are_those_of_cpp(name: str) -> None:
    """From the same numbers of a network, in rows and in columns: choices are equal, other numbers nearly.

    Networks that went wrong give what is not a number, too.
    """
    envs = pair(name)
    network = make_network(envs[0])
    size = network.layout.outputs
    outputs = torch.randn(NUM_ENVS, size, generator=torch.Generator().manual_seed(5))
    outputs[3:6, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    outputs[6], outputs[7], outputs[8] = torch.nan, torch.inf, 3e38
    for given in (outputs, outputs.T.contiguous().T):
        found, expected = (env._backend._draw(network, given, env._outputs) for env in envs)
        named = [dict(zip(("drawn", "taken", "log_prob"), drawn, strict=True)) for drawn in (found, expected)]
        assert_same_tensors(*named, ulps=8, atol=1e-6)


@pytest.mark.parametrize("num_envs", [1, 97])
def test_large_blocks_do_the_same(num_envs: int, monkeypatch: pytest.MonkeyPatch, queue: Queue) -> None:
    from operant_gpu.backends.cuda import backend

    # From so many environments on they are larger.
    monkeypatch.setattr(backend, "_FEW", 50)
    executed, reference = pair("CudaMaskedDials-v0", num_envs=num_envs)
    assert executed._backend._threads == (32 if num_envs == 1 else 128)
    for _ in range(2):
        found, expected = (env.rollout(STEPS, out=output_names(env)) for env in (executed, reference))
        assert_same_tensors(found, expected)
        assert_same_tensors(shown(executed), shown(reference))
    assert {grid for _, grid, _ in queue.launches} == {(1,)}


def test_an_access_beyond_the_batch_is_found() -> None:
    env, _ = pair("CudaDials-v0")
    env._backend.record.set("num_envs", NUM_ENVS + 1)
    with pytest.raises(MemoryFault, match=r"outside all memory .* by thread 9 of block 1"):
        env.step(np.zeros((NUM_ENVS, 2), np.int64))


def test_threads_that_write_one_row_are_found() -> None:
    env, _ = pair("CudaDials-v0")
    one_row = env._outputs._replace(obs=env._outputs.obs[:1].expand(NUM_ENVS, -1))
    with pytest.raises(RaceFault, match="thread"):
        env._backend.reset(torch.ones(NUM_ENVS, dtype=torch.bool), one_row)
