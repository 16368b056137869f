"""What rollouts store: only what is named, completely, and nothing beside it."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, every_mode
from here import BACKENDS
from rollouts import (
    NETWORK_NAMES,
    NUM_ENVS,
    ROLLED_OUT,
    Noise,
    Policy,
    all_names,
    assert_same_environments,
    given_actions,
    make_network,
    output_names,
    single_steps,
    started,
)

from operant_gpu import AutoresetMode, VecEnv
from operant_gpu.spaces import observation_layout

STEPS = 6
ACTIONS = ("action", "policy_action")

some_environments = pytest.mark.parametrize("name", ["Drift-v0", "MaskedDials-v0", "Ledge-v0"])


def shapes(env: VecEnv) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of one environment's entry, as documented."""
    observation, action = observation_layout(env.single_observation_space), env.single_action_space
    kinds: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "obs": (observation.shape, observation.torch_dtype),
        "terminated": ((), torch.bool),
        "truncated": ((), torch.bool),
        "final_obs": (observation.shape, observation.torch_dtype),
        **dict.fromkeys(["reward", *NETWORK_NAMES], ((), torch.float32)),
        **dict.fromkeys(ACTIONS, (action.shape, torch.float32 if action.dtype == np.float32 else torch.int64)),
    }
    if env.action_mask is not None:
        kinds["action_mask"] = (tuple(env.action_mask.shape[1:]), torch.bool)
    return kinds


@pytest.mark.parametrize(("name", "backend"), ROLLED_OUT)
def test_names_give_fresh_tensors_of_the_documented_form(name: str, backend: str) -> None:
    env = started(name, backend)
    names = all_names(env)
    policy = Policy(make_network(env))
    rollouts = [env.rollout(STEPS, policy, names) for _ in range(2)]
    for stored in rollouts:
        assert list(stored) == names
        for key, (shape, dtype) in shapes(env).items():
            tensor = stored[key]
            assert (tensor.shape, tensor.dtype, tensor.device) == ((STEPS, NUM_ENVS, *shape), dtype, env.device), key
    pointers = {tensor.untyped_storage().data_ptr() for stored in rollouts for tensor in stored.values()}
    assert len(pointers) == 2 * len(names)


def test_nothing_named_stores_nothing(backend: str) -> None:
    env = started("CartPole-v1", backend)
    for nothing in ((), [], {}, set(), iter(())):
        assert env.rollout(2, "random", nothing) == {}
    assert env.rollout(2) == {}


def test_names_come_in_any_container(backend: str) -> None:
    for names in (["reward"], ("reward",), {"reward"}, {"reward": None}.keys(), iter(["reward"]), "reward"):
        assert list(started("CartPole-v1", backend).rollout(2, out=names)) == ["reward"]
    assert list(started("CartPole-v1", backend).rollout(2, out=["reward", "obs", "reward"])) == ["reward", "obs"]


@every_mode
@some_environments
def test_each_output_is_the_same_alone_and_among_all(name: str, backend: str, mode: AutoresetMode) -> None:
    if backend == "triton" and (mode, name) != (AutoresetMode.SAME_STEP, "MaskedDials-v0"):
        pytest.skip("each is a kernel of its own; no mode has stores of its own, and MaskedDials has all outputs")
    env, steps = started(name, backend, mode), 2 if backend == "triton" else STEPS
    network = Policy(make_network(env))
    for policy, names in (("random", output_names(env)), (network, all_names(env))):
        env.reset(seed=2)
        expected = env.rollout(steps, policy, names)
        for alone in names:
            others = [key for key in names if key != alone]
            for some in ([alone], others):
                env.reset(seed=2)
                assert_same_tensors(env.rollout(steps, policy, some), {key: expected[key] for key in some})


Layout = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]


def row_major(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    steps, num_envs, size = shape
    return torch.empty(2 * steps + 1, num_envs + 2, size + 2, dtype=dtype)[1::2, 1:-1, 1:-1]


def by_component(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    steps, num_envs, size = shape
    return torch.empty(3 * steps, size + 2, num_envs + 3, dtype=dtype).transpose(1, 2)[1::3, 2:-1, 1:-1]


def environments_first(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    steps, num_envs, size = shape
    return torch.empty(num_envs + 1, steps + 2, 2 * size, dtype=dtype).transpose(0, 1)[1:-1, 1:, ::2]


def backwards(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Put time last of all."""
    steps, num_envs, size = shape
    return torch.empty(size, num_envs, 2 * steps, dtype=dtype).permute(2, 1, 0)[::2]


def storage(env: VecEnv, layout: Layout, integers: torch.dtype) -> dict[str, torch.Tensor]:
    """Return tensors in larger memory: vectors with the layout's strides, numbers in rows with gaps between them."""
    tensors = {}
    for key, (shape, dtype) in shapes(env).items():
        dtype = integers if dtype is torch.int64 else dtype
        if shape or key in ACTIONS:
            flat = layout((STEPS, NUM_ENVS, math.prod(shape)), dtype)
            tensors[key] = flat.view(STEPS, NUM_ENVS, *shape) if shape else flat[..., 0]
        else:
            tensors[key] = torch.empty(2 * STEPS, NUM_ENVS + 3, dtype=dtype)[1::2, 1:-2]
    return tensors


def poison(tensor: torch.Tensor, flag: bool) -> torch.Tensor:
    """Fill the whole memory that a view is part of; return it, flat."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return memory.fill_(torch.nan if tensor.is_floating_point() else flag if tensor.dtype is torch.bool else 12345)


def beside(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mask of the memory that a view leaves out."""
    memory = torch.ones(tensor.untyped_storage().nbytes() // tensor.element_size(), dtype=torch.bool)
    memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(False)
    return memory


@pytest.mark.parametrize(
    ("layout", "integers"),
    [
        *((layout, torch.int64) for layout in (row_major, by_component, environments_first, backwards)),
        (by_component, torch.int32),
    ],
    ids=lambda given: getattr(given, "__name__", str(given)),
)
@some_environments
def test_given_tensors_are_written_completely_and_nothing_beside_them(
    name: str, backend: str, layout: Layout, integers: torch.dtype
) -> None:
    if backend == "triton" and name != "MaskedDials-v0" and layout is not by_component:
        pytest.skip("kernels see strides, whatever environment they are of")
    env, reference = started(name, backend), started(name, backend)
    policies = [("random", output_names(env)), (Policy(make_network(env)), all_names(env))]
    for flag, (policy, names) in zip((True, False), policies, strict=True):
        expected = reference.rollout(STEPS, policy, names)
        for key in {*ACTIONS} & expected.keys():
            if not expected[key].is_floating_point():
                expected[key] = expected[key].to(integers)
        out = {key: tensor for key, tensor in storage(env, layout, integers).items() if key in names}
        memories = {key: poison(tensor, flag) for key, tensor in out.items()}
        before = {key: memory[beside(out[key])].clone() for key, memory in memories.items()}
        stored = env.rollout(STEPS, policy, out)
        assert all(stored[key] is tensor for key, tensor in out.items())
        assert_same_tensors(stored, {key: expected[key] for key in out})
        assert all(before[key].numel() for key in ("obs", "reward", "terminated"))
        assert_same_tensors({key: memory[beside(out[key])] for key, memory in memories.items()}, before)
        assert_same_environments(env, reference)


@every_mode
@some_environments
def test_what_a_rollout_returned_can_be_given_back(name: str, backend: str, mode: AutoresetMode) -> None:
    env, reference = started(name, backend, mode), started(name, backend, mode)
    names = output_names(env)
    first, expected = env.rollout(STEPS, "random", names), reference.rollout(STEPS, "random", names)
    assert_same_tensors(first, expected)
    again = env.rollout(STEPS, "random", first)
    assert all(again[key] is first[key] for key in names)
    assert_same_tensors(again, reference.rollout(STEPS, "random", names))


@pytest.mark.parametrize("name", ["CartPole-v1", "Dials-v0", "Drift-v0"])
def test_actions_are_read_with_any_strides_and_may_be_stored_where_they_are(name: str, backend: str) -> None:
    env, reference = started(name, backend), started(name, backend)
    actions = given_actions(env, STEPS)
    ways = [
        actions.flip(0).contiguous().flip(0),
        actions.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([actions, actions], 1)[:, 1],
        actions.repeat_interleave(2, 1)[:, ::2],
        actions if actions.is_floating_point() else actions.int(),
        actions[:1].expand(STEPS, *actions.shape[1:]),
    ]
    for given in ways:
        kept = given.clone()
        stored = env.rollout(STEPS, given, ["action", "reward", "final_obs"])
        assert given.equal(kept)
        expected = single_steps(reference, kept.contiguous())
        assert stored["action"].equal(expected["action"].to(stored["action"].dtype))
        assert stored["reward"].equal(expected["reward"])
        assert stored["final_obs"].equal(expected["final_obs"])
    kept = actions.clone()
    env.rollout(STEPS, actions, {"action": actions})
    assert actions.equal(kept)


def test_actions_are_also_taken_as_arrays_and_lists(backend: str) -> None:
    for name in ("CartPole-v1", "Drift-v0", "Dials-v0"):
        env, reference = started(name, backend), started(name, backend)
        actions = given_actions(env, STEPS)
        read_only = actions.numpy().copy()
        read_only.flags.writeable = False
        for given in (actions.numpy(), actions.tolist(), np.flip(actions.flip(0).numpy(), 0), read_only):
            stored = env.rollout(STEPS, given, ["action", "reward"])
            assert_same_tensors(stored, reference.rollout(STEPS, actions, ["action", "reward"]))


def test_numpy_output_gives_arrays(backend: str) -> None:
    env, reference = started("Ledge-v0", backend, output="numpy"), started("Ledge-v0", backend)
    present = env.observe()
    stored = env.rollout(STEPS, "random", output_names(env))
    expected = reference.rollout(STEPS, "random", output_names(reference))
    assert all(type(array) is np.ndarray for array in stored.values())
    assert_same_tensors({key: torch.from_numpy(array) for key, array in stored.items()}, expected)
    assert np.array_equal(present, reference.observe().numpy())


def test_observations_may_be_single_numbers(backend: str) -> None:
    env, reference = (Noise(5, device="cpu", backend=backend) for _ in range(2))
    for each in (env, reference):
        each.reset(seed=1)
    stored = env.rollout(STEPS, "random", ["obs", "final_obs", "action"])
    assert stored["obs"].shape == (STEPS, 5)
    expected = single_steps(reference, stored["action"])
    assert_same_tensors(stored, {key: expected[key] for key in stored})
    out = torch.empty(2 * STEPS, 5)[::2]
    assert env.rollout(STEPS, "random", {"obs": out})["obs"].equal(reference.rollout(STEPS, "random", ["obs"])["obs"])


@pytest.mark.parametrize("name", ["CartPole-v1", "Drift-v0"])
def test_outputs_carry_no_gradients(name: str, backend: str) -> None:
    env = started(name, backend)
    network = make_network(env)
    network.parameters.requires_grad_(True)
    stored = env.rollout(2, Policy(network), all_names(env))
    assert not [key for key, tensor in stored.items() if tensor.requires_grad]
    if name == "Drift-v0":
        actions = given_actions(env, 2).requires_grad_(True)
        assert not env.rollout(2, actions, ["action"])["action"].requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_that_were_written_to_are_let_go(backend: str) -> None:
    """A rollout's memory is its caller's: steps that are launched the fast way hold the environments' own alone."""
    env, expected = started("Ledge-v0", backend), started("Ledge-v0", backend)
    action, _ = (one.rollout(1, "random", out=["action"])["action"][0].clone() for one in (env, expected))
    for _ in range(2):
        env.step(action)
        expected.step(action)
    stored = {"reward": torch.zeros(NUM_ENVS), "terminated": torch.zeros(NUM_ENVS, dtype=torch.bool)}
    env.step(action, out=stored)
    reward = expected.step(action)[1]
    assert torch.equal(stored["reward"], reward)
    kept = [weakref.ref(tensor) for tensor in stored.values()]
    stored.clear()
    gc.collect()
    assert [one() for one in kept] == [None, None]
    # And the steps after it write to the environments' own again, also where the actions have another form.
    for form in (action, action.int(), torch.stack([action, action], 1)[:, 0], action):
        assert torch.equal(env.step(form)[1], expected.step(action)[1])
