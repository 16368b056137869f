"""Every backend gives the NumPy backend's results, and writes all that it should and no more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import CASES, MAKERS, everything, in_modes, invalid_actions, make_cpu, random_actions
from here import HAS_TRITON

from operant_gpu import AutoresetMode, VecEnv
from operant_gpu.backends.select import BACKENDS

# The interpreter's sines are NumPy's own, those of numba within 2 ulp: a pendulum makes more of it in 200 steps.
# Compilers of the CPU have mathematics of their own.
TOLERANCE = {name: 1e-6 if name in ("numpy", "triton") else 3e-5 for name in BACKENDS}
# Steps, of which every so many is with actions that are refused, and the longest episode. The interpreter is slow.
STEPS, REFUSED, LIMIT = (40, 8, 15) if HAS_TRITON else (100, 20, 37)
# Those of which there is an original in Triton.
COMPARED = [(name, backend) for name, backend in CASES if backend != "numpy" and name.removeprefix("Cuda") in MAKERS]
compiled = in_modes(COMPARED)


def assert_agree(
    numpy_tensors: dict[str, torch.Tensor], other: dict[str, torch.Tensor], step: int, real: float = 1e-6
) -> None:
    """Compare integers and flags exactly, floats to `real`."""
    for name, expected in numpy_tensors.items():
        tolerance = real if expected.is_floating_point() else 0
        torch.testing.assert_close(
            other[name],
            expected,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda message, name=name: f"{name} at step {step}: {message}",
        )


def outputs_of(result: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    obs, reward, terminated, truncated, info = result
    flags = {"terminated": terminated, "truncated": truncated, "ended": info["_final_obs"]}
    episode = {"return": info["episode"]["r"], "length": info["episode"]["l"]}
    masks = {name: info[name] for name in ("action_mask",) if name in info}
    return {"obs": obs, "final_obs": info["final_obs"], "reward": reward, **flags, **episode, **masks} | info.get(
        "metrics", {}
    )


@pytest.mark.quick
@compiled
def test_compiled_backends_agree_with_numpy_for_many_steps(name: str, mode: AutoresetMode, backend: str) -> None:
    # Terminations, truncations, refused actions and, where the caller resets, late steps all take place.
    settings = {"autoreset_mode": mode, "max_episode_steps": LIMIT}
    original = name.removeprefix("Cuda")
    envs = [make_cpu(original, 33, "numpy", **settings), make_cpu(name, 33, backend, **settings)]
    first, second = ({"obs": obs, **info} for obs, info in (env.reset(seed=2**62 + 17) for env in envs))
    # Of parameters in memory the quotients are taken at each step, on a GPU to 2 ulps.
    tolerance = TOLERANCE[backend] * (4 if "varied" in name else 1)
    assert_agree(first, second, 0, tolerance)
    rng = np.random.default_rng(4)
    for step in range(1, STEPS + 1):
        actions = random_actions(envs[0], rng)
        if step % REFUSED == 0:
            actions = invalid_actions(envs[0], actions, [step % 33, 5])
        results = [outputs_of(env.step(actions)) for env in envs]
        assert_agree(*results, step, tolerance)
        if mode is AutoresetMode.DISABLED and step % 9 == 0:
            masks = [result["ended"].clone() for result in results]
            fresh = (env.reset(options={"reset_mask": mask}) for env, mask in zip(envs, masks))
            first, second = ({"obs": obs, **info} for obs, info in fresh)
            assert_agree(first, second, step, tolerance)
    states = [everything(env) for env in envs]
    assert_agree(*states, STEPS, tolerance)
    assert states[0]["columns.log_count"].sum() > 33
    assert states[0]["columns.bad_actions"].sum() > 0


SOME = ("CartPole-v1", "Drift-v0", "MaskedDials-v0", "Ledge-v0")


def poisoned_storage(env: VecEnv, slots: int) -> dict[str, torch.Tensor]:
    """Return rollout storage (slots, num_envs, ...): NaN for numbers, flags and masks that alternate."""
    shape = (slots, env.num_envs)
    flags = torch.arange(slots * env.num_envs).reshape(shape) % 2 == 0
    storage = {
        "obs": torch.full((*shape, *env.single_observation_space.shape), torch.nan),
        "reward": torch.full(shape, torch.nan),
        "terminated": flags.clone(),
        "truncated": ~flags,
    }
    if env.autoreset_mode is AutoresetMode.SAME_STEP:
        storage["final_obs"] = torch.full_like(storage["obs"], torch.nan)
    if env.action_mask is not None:
        shape = (slots, *env.action_mask.shape)
        storage["action_mask"] = torch.arange(math.prod(shape)).reshape(shape) % 2 == 0
    return storage


@pytest.mark.parametrize("num_envs", [1, 41, 341])
@in_modes([(name, backend) for name, backend in CASES if name.removeprefix("Cuda") in SOME])
def test_a_step_fills_the_callers_rows_and_no_others(
    name: str, backend: str, mode: AutoresetMode, num_envs: int
) -> None:
    settings = {"autoreset_mode": mode, "max_episode_steps": 2}
    env = make_cpu(name, num_envs, backend, **settings)
    reference = make_cpu(name.removeprefix("Cuda"), num_envs, "numpy", **settings)
    env.reset(seed=9)
    reference.reset(seed=9)
    storage = poisoned_storage(env, slots=5)
    before = {key: tensor.clone() for key, tensor in storage.items()}
    rng = np.random.default_rng(1)
    for slot in (1, 2, 3):
        actions = random_actions(env, rng)
        returned = outputs_of(env.step(actions, out={key: tensor[slot] for key, tensor in storage.items()}))
        expected = outputs_of(reference.step(actions))
        for key, tensor in storage.items():
            assert returned[key].data_ptr() == tensor[slot].data_ptr()
            assert_agree({key: expected[key]}, {key: tensor[slot]}, step=slot)
    for key, tensor in storage.items():
        for slot in (0, 4):
            torch.testing.assert_close(tensor[slot], before[key][slot], rtol=0, atol=0, equal_nan=True)
    # The environment's own memory took no part: it goes on from its own state.
    assert_agree(everything(reference), everything(env), step=3)
