"""Numbers that lie further apart than 32 bits count, in memory that is reserved and not there until it is touched.

Compiled kernels find them all: nothing here runs in Triton's interpreter, which would leave the process's memory.
"""

from __future__ import annotations

import math
import mmap
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the kernels' files need Triton")

import triton
from contract_envs import CUDA_MAKERS, Lamps, assert_same_tensors
from gymnasium import spaces
from here import EXECUTED
from ptx_executor import Executor
from ptx_executor.kernels import Queue
from rollouts import given_actions, make_network, output_names
from torch import Tensor
from updates import DIALS, Fused, assert_same_iteration, by_autograd, case, hyperparameters

from operant_gpu import AutoresetMode, Environment, VecEnv
from operant_gpu.backends.triton import update
from operant_gpu.backends.triton.constants import learner_constants
from operant_gpu.backends.triton.launching import launch
from operant_gpu.hyperparameters import Samples
from operant_gpu.kernels.triton.adam import NUM_MEASURED, reduce_kernel
from operant_gpu.kernels.triton.advantages import advantages_kernel
from operant_gpu.kernels.triton.objective import NUM_SUMS, minibatch
from operant_gpu.kernels.triton.shuffle import SHUFFLE_STREAM, _sent, shuffle_kernel, widths
from operant_gpu.lang import jit, tl
from operant_gpu.philox import philox
from operant_gpu.random import integers

# Of each axis three are needed, the last of which is beyond what an int32 counts to.
APART, NUM_ENVS, STEPS = 2**30, 3, 3
# What not all of Python's releases name, on Linux.
_NORESERVE = 0x4000

needs_compiled_triton = pytest.mark.skipif(not EXECUTED, reason="runs on compiled kernels")


class DigitsState(NamedTuple):
    first: tl.int32
    second: tl.int32
    third: tl.int32


@jit
def digits_reset(rng, params):
    return DigitsState(integers(rng, 0, 1, 9), integers(rng, 1, 1, 9), integers(rng, 2, 1, 9))


@jit
def digits_step(state, action, rng, params):
    first, second, third = state.first + action[0], state.second + action[1], state.third + action[2]
    return DigitsState(first, second, third), first + 0.5 * second, third > 12


@jit
def digits_observe(state, params):
    return state.first, state.second, state.third


@jit
def digits_action_mask(state, params):
    return state.first > 4, True, state.second > 4, True, state.third > 4, True


Digits = Environment(
    id="Digits-v0",
    state=DigitsState,
    reset=digits_reset,
    step=digits_step,
    observe=digits_observe,
    action_mask=digits_action_mask,
    observation_space=spaces.Box(0.0, 99.0, (3,)),
    action_space=spaces.MultiDiscrete([2, 2, 2], start=[1, 1, 1]),
)


def reserved(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory of their own, with these strides."""
    count = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)


def far(tensor: Tensor, axes: int, apart: int, are_rows_whole: bool = False) -> Tensor:
    """Return a copy whose steps, if it has `axes` with them, environments and components lie far apart."""
    flat = tensor.reshape(*tensor.shape[:axes], math.prod(tensor.shape[axes:]))
    # So that no two sums of them are equal: along an axis there are three, but for the last.
    strides = [apart + 2**16 * (3**axis - 1) for axis in range(axes + 1)]
    if are_rows_whole:
        strides[-2:] = 1, 1
    return reserved(tuple(flat.shape), tuple(strides), tensor.dtype).copy_(flat).view(tensor.shape)


def far_and_wrong(tensor: Tensor, axes: int, apart: int) -> Tensor:
    """Return memory for an output, with other numbers in it: what has components has any strides."""
    other = ~tensor if tensor.dtype is torch.bool else tensor + 1
    return far(other, axes, apart, are_rows_whole=tensor.ndim == axes)


@pytest.fixture(autouse=True)
def _no_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detect none: who touched which of so many bytes is too much to remember."""
    if EXECUTED:
        from triton.runtime import driver

        executor = Executor(detects_races=False, max_shared=driver.active.executor.max_shared)
        monkeypatch.setattr(driver.active, "executor", executor)


def pair(make: Any, backend: str, reference: str) -> list[VecEnv]:
    """Return an environment on compiled kernels, and the same that they are compared with; both after a reset."""
    mode = AutoresetMode.SAME_STEP
    envs = [make(NUM_ENVS, device="cpu", backend=name, autoreset_mode=mode) for name in (backend, reference)]
    for env in envs:
        env.reset(seed=3)
    return envs


def compare(env: VecEnv, reference: VecEnv, apart: int) -> None:
    """Compare steps and rollouts, and draws of a network with those of the same kernel from memory without gaps."""
    given, names = given_actions(reference, STEPS), output_names(reference)
    policies = ((far(given, 2, apart), given), ("random", "random"))
    for found_policy, expected_policy in policies:
        expected = reference.rollout(STEPS, expected_policy, names)
        out = {name: far_and_wrong(tensor, 2, apart) for name, tensor in expected.items()}
        assert_same_tensors(env.rollout(STEPS, found_policy, out), expected)

    *_, info = reference.step(given[0])
    results = {"obs": reference.observe(), "final_obs": info["final_obs"]}
    results |= {} if reference.action_mask is None else {"action_mask": reference.action_mask}
    out = {name: far_and_wrong(tensor, 1, apart) for name, tensor in results.items()}
    env.step(far(given[0], 1, apart), out=out)
    assert_same_tensors(out, results)
    written = {name: far_and_wrong(tensor, 1, apart) for name, tensor in results.items() if name != "final_obs"}
    flat = {name: tensor.flatten(1) for name, tensor in written.items()}
    env._backend.reset(torch.zeros(NUM_ENVS, dtype=torch.bool), env._outputs._replace(**flat))
    assert_same_tensors(written, {name: results[name] for name in written})

    network, outputs = make_network(env), env._outputs
    numbers = torch.randn(NUM_ENVS, network.layout.outputs, generator=torch.Generator().manual_seed(5))
    near = env._backend._draw(network, numbers, outputs)
    if outputs.action_mask is not None:
        outputs = outputs._replace(action_mask=far(outputs.action_mask, 1, apart))
    drawn = env._backend._draw(network, far(numbers, 1, apart), outputs)
    assert_same_tensors(*(dict(zip(("drawn", "taken", "log_prob"), each, strict=True)) for each in (drawn, near)))


@needs_compiled_triton
@pytest.mark.parametrize("make", [Digits, Lamps], ids=["numbers", "arrays"])
def test_strides_of_triton_may_be_any(make: Environment) -> None:
    compare(*pair(make, "triton", "numpy"), APART)


# Strides are numbers of 64 bits there: one of them alone is beyond 32.
def test_strides_of_cuda_may_be_any(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy", reason="compilation needs CuPy")
    from ptx_executor.cuda_driver import install

    install(Queue(Executor(detects_races=False)), monkeypatch)
    compare(*pair(CUDA_MAKERS["CudaMaskedDials-v0"], "cuda", "cpp"), 2 * APART)


@needs_compiled_triton
def test_samples_of_triton_are_as_many_as_there_are_numbers_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(DIALS, inputs=3, masked=True, n_epochs=1, minibatches=1)
    shuffle = update.GradientSteps._shuffle

    def shuffled(steps: Any, seed: int, iteration: Tensor, advantages: Tensor) -> Tensor | None:
        moments = shuffle(steps, seed, iteration, given.columns[4])
        steps._order += APART
        return moments

    monkeypatch.setattr(update.GradientSteps, "_shuffle", shuffled)
    fused = Fused(given, update)
    columns = []
    for column in fused.samples:
        flat = column.flatten(0, 1)
        size = flat[0].numel()
        memory = reserved((APART + len(flat), size), (size, 1), flat.dtype)
        memory[APART:] = flat.view(-1, size)
        columns.append(memory)
    monkeypatch.setattr(Fused, "samples", Samples(*columns))
    assert_same_iteration(fused, fused.run(), by_autograd(given))


def launched(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], **constants: Any) -> None:
    launch(kernel, grid, arguments, constants, torch.device("cpu"), update.OPTIONS, "")


@needs_compiled_triton
def test_orders_of_triton_begin_where_epochs_do() -> None:
    order, iteration, bits = reserved((3, APART), (APART, 1), torch.int32), torch.tensor(9).int(), widths(APART)
    launched(shuffle_kernel, (1, 3), (order, iteration, 5, 0, APART, *bits), BLOCK=64)
    for epoch in range(3):
        words = [int(word) for word in philox(5, 9, epoch, 0, SHUFFLE_STREAM.value)]
        # The first of all places, of which each finds its sample by itself.
        assert order[epoch, :64].tolist() == _sent(np.arange(64, dtype=np.uint32), words, *bits).tolist()


@triton.jit(do_not_specialize=["step", "samples", "minibatches"])
def minibatch_kernel(found_ptr, step, samples, minibatches):
    start, count = minibatch(step, samples, minibatches)
    tl.store(found_ptr, start)
    tl.store(found_ptr + 1, count)


@needs_compiled_triton
@pytest.mark.parametrize("number", [5, 9])
def test_minibatches_of_triton_begin_after_the_epochs_before(number: int) -> None:
    found, minibatches = torch.zeros(2, dtype=torch.int64), 2**20
    launched(minibatch_kernel, (1,), (found, 2 * minibatches + number, APART + 7, minibatches))
    share = APART // minibatches
    assert found.tolist() == [2 * (APART + 7) + number * share + min(number, 7), share + (number < 7)]


@needs_compiled_triton
def test_advantages_of_triton_are_of_any_number_of_environments() -> None:
    generator = torch.Generator().manual_seed(1)
    rewards, values, final = torch.randn(3, STEPS, 64, generator=generator)
    terminated, truncated = torch.rand(2, STEPS, 64, generator=generator) < 0.3
    near = (rewards, values, final, terminated, truncated)
    found, *columns = (far(column, 2, APART, are_rows_whole=True) for column in (torch.zeros_like(rewards), *near))
    numbers, constants = hyperparameters(gamma=0.9, gae_lambda=0.8), {"LEARNER": learner_constants(), "BLOCK": 64}
    launched(advantages_kernel, (1,), (found, *columns, numbers, columns[0].stride(0), STEPS), **constants)
    assert torch.equal(found, update.estimate_advantages(*near, numbers))


@needs_compiled_triton
def test_partial_gradients_of_triton_are_of_any_size() -> None:
    rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    partials, sums = far(rows, 2, APART, are_rows_whole=True), torch.zeros(3, 1, NUM_SUMS.value)
    gradient, squares, measured = torch.zeros(16), torch.zeros(1), torch.zeros(1, NUM_MEASURED.value)
    chunks, trainable = torch.tensor([[0, 16, 0]]).int(), torch.ones(1).int()
    outputs, numbers = (gradient, squares, measured), (0, len(rows), partials.stride(0))
    launched(reduce_kernel, (1,), (*outputs, partials, sums, chunks, trainable, *numbers), ROLES=1, ROWS=16, CHUNK=16)
    torch.testing.assert_close(gradient, rows.sum(0))
