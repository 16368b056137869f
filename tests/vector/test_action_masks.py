"""Action masks: what they say in every state, where they are written, and what goes without."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import (
    Dials,
    Ledge,
    MaskedDials,
    every_mode,
    invalid_actions,
    ledge_constant_mask,
    make_cpu,
    random_actions,
)

from operant_gpu import ActionError, AutoresetMode, InvalidConfig, VecEnv
from operant_gpu.envs import CartPole
from operant_gpu.lang import jit
from operant_gpu.memory import allocation
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.vector.actions import raise_helpless

NUM_ENVS = 41


def ledge_mask(observation: list[float]) -> list[bool]:
    x, breath, winded = observation
    return [True, x > 0, x < 5, breath >= 2 and x + 2 <= 5, winded == 1]


def dials_mask(observation: list[list[float]]) -> list[bool]:
    left, right = observation[0]
    return [left > -4, True, left < 4, right > -3, right > -4, True, left != right and right < 4]


# From the observation as it comes back, so that a mask of another state than that shows.
MASK_OF: dict[str, Callable[[Any], list[bool]]] = {"Ledge-v0": ledge_mask, "MaskedDials-v0": dials_mask}
every_masked = pytest.mark.parametrize("name", MASK_OF)

# Observations that between them forbid what can be forbidden.
STATES: dict[str, list[Any]] = {
    "Ledge-v0": [[0, 0, 0], [5, 5, 1]],
    "MaskedDials-v0": [[[-4, -4]], [[4, 4]]],
}


def make(name: str, backend: str, **settings: Any) -> VecEnv:
    return make_cpu(name, NUM_ENVS, backend, **{"max_episode_steps": 7, **settings})


def expected(name: str, obs: torch.Tensor) -> list[list[bool]]:
    return [MASK_OF[name](row) for row in obs.tolist()]


@every_mode
@every_masked
def test_a_mask_is_that_of_the_observation_beside_it(name: str, backend: str, mode: AutoresetMode) -> None:
    env = make(name, backend, autoreset_mode=mode)
    obs, info = env.reset(seed=1)
    masks = [info["action_mask"].clone()]
    assert info["action_mask"].tolist() == expected(name, obs)
    rng = np.random.default_rng(0)
    terminations = 0
    for step in range(30):
        actions = random_actions(env, rng)
        if step % 10 == 9:
            actions = invalid_actions(env, actions, [3, 8])
        obs, _, terminated, truncated, info = env.step(actions)
        assert info["action_mask"].tolist() == expected(name, obs)
        terminations += int(terminated.sum())
        masks.append(info["action_mask"].clone())
        if mode is AutoresetMode.DISABLED and step % 2:
            obs, info = env.reset(options={"reset_mask": terminated | truncated})
            assert info["action_mask"].tolist() == expected(name, obs)
    # The run has seen ends, and each action forbidden in some state but those that are always legal.
    assert terminations > 5
    always = torch.stack(masks).flatten(0, 1).all(0).tolist()
    assert always == [all(column) for column in zip(*map(MASK_OF[name], STATES[name]))]


@every_masked
def test_masks_lie_in_memory_action_by_action_and_are_the_same_tensor_every_time(name: str, backend: str) -> None:
    env = make(name, backend)
    mask = env.reset(seed=1)[1]["action_mask"]
    count = {"Ledge-v0": 5, "MaskedDials-v0": 3 + 4}[name]
    assert (mask.shape, mask.dtype, mask.device) == ((NUM_ENVS, count), torch.bool, env.device)
    assert mask.stride() == (1, NUM_ENVS)
    stepped = env.step(random_actions(env, np.random.default_rng(0)))[-1]["action_mask"]
    assert mask.data_ptr() == stepped.data_ptr() == env.action_mask.data_ptr()
    assert list(env.step(random_actions(env, np.random.default_rng(0)))[-1])[-1] == "action_mask"


def test_observe_refreshes_the_mask(backend: str) -> None:
    env = make("Ledge-v0", backend)
    env.reset(seed=1)
    env.state.x.fill_(3)
    env.state.breath.fill_(2)
    env.state.winded.fill_(True)
    for row, x in enumerate((0, 4, 5)):
        env.state.x[row] = x
    env.observe()
    assert env.action_mask[:4].tolist() == [
        [True, False, True, True, True],
        [True, True, True, False, True],
        [True, True, False, False, True],
        [True, True, True, True, True],
    ]


def test_an_illegal_action_is_the_environments_own_business(backend: str) -> None:
    env = make("Ledge-v0", backend, debug=True)
    env.reset(seed=1)
    env.state.x.zero_()
    before = env.state.breath.clone()
    reward = env.step(torch.full((NUM_ENVS,), 2))[1]
    assert reward.tolist() == [-1.0] * NUM_ENVS
    assert not env.state.x.any()
    assert env.state.breath.equal(before)
    env.check()


WAYS: dict[str, Callable[[int], torch.Tensor]] = {
    "row by row": lambda count: torch.empty(NUM_ENVS, count, dtype=torch.bool),
    "by action": lambda count: torch.empty(count, NUM_ENVS, dtype=torch.bool).T,
    "with gaps": lambda count: torch.empty(NUM_ENVS, 3, 2 * count, dtype=torch.bool)[:, 1, ::2],
}


@pytest.mark.parametrize("way", WAYS)
@every_masked
def test_out_takes_a_mask_with_any_strides_and_leaves_the_environments_own(name: str, backend: str, way: str) -> None:
    env = make(name, backend)
    own = env.reset(seed=1)[1]["action_mask"].clone()
    for given in (True, False):
        mask = WAYS[way](own.shape[1]).fill_(given)
        obs, *_, info = env.step(random_actions(env, np.random.default_rng(0)), out={"action_mask": mask})
        assert info["action_mask"].data_ptr() == mask.data_ptr()
        assert mask.tolist() == expected(name, obs)
        assert env.action_mask.equal(own)


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(NUM_ENVS, 4, dtype=torch.bool),
        torch.zeros(NUM_ENVS, dtype=torch.bool),
        torch.zeros(NUM_ENVS, 5, dtype=torch.uint8),
        torch.zeros(NUM_ENVS, 5, dtype=torch.bool, device="meta"),
        np.zeros((NUM_ENVS, 5), bool),
    ],
    ids=["actions", "axes", "dtype", "device", "array"],
)
def test_out_refuses_masks_that_do_not_fit(mask: Any) -> None:
    env = make("Ledge-v0", "numpy")
    env.reset(seed=1)
    with pytest.raises(InvalidConfig, match=r"^out: action_mask must be (torch\.bool of shape \(41, 5\)|a torch)"):
        env.step(torch.ones(NUM_ENVS, dtype=torch.int32), out={"action_mask": mask})


def test_copies_of_masks_are_fresh_and_the_attribute_stays_live(backend: str) -> None:
    env = make("Ledge-v0", backend, copy=True)
    obs, info = env.reset(seed=1)
    kept = [(obs, info["action_mask"])]
    rng = np.random.default_rng(0)
    for _ in range(4):
        obs, *_, info = env.step(random_actions(env, rng))
        kept.append((obs, info["action_mask"]))
        assert env.action_mask.equal(info["action_mask"])
    assert len({mask.data_ptr() for _, mask in kept} | {env.action_mask.data_ptr()}) == len(kept) + 1
    assert all(mask.tolist() == expected("Ledge-v0", obs) for obs, mask in kept)


def test_masks_come_in_the_chosen_librarys_arrays(backend: str) -> None:
    env = make("Ledge-v0", backend, output="numpy")
    _, info = env.reset(seed=1)
    stepped = env.step(np.ones(NUM_ENVS, np.int32))[-1]["action_mask"]
    for mask in (info["action_mask"], stepped, env.action_mask):
        assert isinstance(mask, np.ndarray)
        assert mask.dtype == np.bool_
        assert np.shares_memory(mask, env.action_mask)


def test_an_environment_without_a_mask_has_none_of_it(backend: str) -> None:
    env = CartPole(NUM_ENVS, device="cpu", backend=backend)
    assert env.reset(seed=1)[1] == {}
    actions = torch.zeros(NUM_ENVS, dtype=torch.int32)
    assert "action_mask" not in env.step(actions)[-1]
    assert env.action_mask is None
    with pytest.raises(InvalidConfig, match=r"^out: unknown output 'action_mask': expected some of .*truncated$"):
        env.step(actions, out={"action_mask": torch.zeros(NUM_ENVS, 2, dtype=torch.bool)})


def test_masks_of_constants_are_filled_in(backend: str) -> None:
    definition = dataclasses.replace(Ledge, action_mask=ledge_constant_mask)
    env = definition(3, device="cpu", backend=backend, width=4)
    assert env.reset(seed=1)[1]["action_mask"].tolist() == [[True, False, True, True, False]] * 3


@jit
def stuck_out_of_breath(state, params):
    free = state.breath < 5
    return free, free, free, free, free


def test_an_environment_without_a_legal_action_is_named(backend: str) -> None:
    definition = dataclasses.replace(Ledge, action_mask=stuck_out_of_breath, max_episode_steps=None)
    env = definition(4, device="cpu", backend=backend, debug=True)
    env.reset(seed=1)
    for state in (env.state.x, env.state.breath, env.state.winded):
        state.zero_()
    env.observe()
    env.check()
    saved = env.state_dict()
    # Seen without `observe`.
    env.state.breath[2:] = 5
    message = r"^no action is legal in 2 environments \(first in environment 2\): let `action_mask` leave one"
    stay = [1] * 4
    calls = (
        env.check,
        env.get_logs,
        lambda: env.step(stay),
        lambda: env.step(stay, out={"action_mask": torch.ones(4, 5, dtype=torch.bool)}),
        lambda: env.reset(options={"reset_mask": torch.tensor([True, False, False, False])}),
        lambda: env.rollout(1, torch.tensor([stay])),
    )
    for call in calls:
        with pytest.raises(ActionError, match=message):
            call()
    env.load_state_dict(saved)
    env.check()
    twin = definition(4, device="cpu", backend=backend)
    twin.load_state_dict(saved)
    twin.check()


@every_mode
def test_each_component_needs_a_legal_action_while_the_episode_goes_on(mode: AutoresetMode) -> None:
    layout = action_layout(MaskedDials.action_space)
    mask = torch.ones(4, layout.num_actions, dtype=torch.bool)
    mask[3, layout.first_choices[1] :] = False
    over = torch.tensor([False, False, False, True])
    raise_helpless(mask, over, layout)
    raise_helpless(mask[:3], None, layout)
    for given in (None, ~over):
        with pytest.raises(ActionError, match=r"in 1 environments \(first in environment 3\)"):
            raise_helpless(mask, given, layout)
    definition = dataclasses.replace(Ledge, action_mask=stuck_out_of_breath)
    env = definition(4, device="cpu", backend="numpy", autoreset_mode=mode)
    env.reset(seed=1)
    env.state.breath.fill_(5)
    env._columns.ended.fill_(True)
    with pytest.raises(ActionError) if mode is AutoresetMode.SAME_STEP else contextlib.nullcontext():
        env.check()


def test_a_mask_counts_a_byte_for_each_action() -> None:
    # A number of environments that memory does not hold is refused with the bytes of each.
    sizes = {}
    for definition in (Dials, MaskedDials):
        with pytest.raises(InvalidConfig, match="bytes need") as raised:
            definition(2**31 - 1, device="cpu", backend="numpy")
        sizes[definition.id] = int(str(raised.value).split(" environments of ")[1].split()[0])
    assert sizes["MaskedDials-v0"] == sizes["Dials-v0"] + 3 + 4
    assert sizes["Dials-v0"] == allocation.bytes_per_env(Dials, (), observation_layout(Dials.observation_space))
