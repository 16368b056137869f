"""Random numbers: known answers of Philox, what a draw depends on, and that backends agree bit for bit."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from draws import ANYTHING, UNIFORMS, AllDraws, Draws, PhiloxWords, columns, reset_draws, started, step
from gymnasium import spaces
from here import HAS_TRITON

from operant_gpu import Environment, UnsupportedConstruct
from operant_gpu.lang import jit
from operant_gpu.philox import philox
from operant_gpu.random import integers, normal, uniform

# Counter, key and words of Random123's kat_vectors for philox4x32, 10 rounds.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
STEP_STREAM = 1 << 28


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def signed(number: int, bits: int) -> int:
    return number - (number >> (bits - 1) << bits)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_published_words(counter: str, key: str, answer: str) -> None:
    low, high = hexadecimal(key)
    words = philox(signed(high << 32 | low, 64), *hexadecimal(counter))
    assert [int(word) for word in words] == hexadecimal(answer)


def test_philox_takes_columns_of_counters_and_keys() -> None:
    counters = np.array([hexadecimal(counter) for counter, _, _ in KNOWN_ANSWERS], np.uint32).T.astype(np.int32)
    keys = [signed(high << 32 | low, 64) for low, high in (hexadecimal(key) for _, key, _ in KNOWN_ANSWERS)]
    words = philox(np.array(keys), *counters)
    assert np.transpose(words).tolist() == [hexadecimal(answer) for *_, answer in KNOWN_ANSWERS]


def test_the_first_words_of_seed_zero_are_those_of_the_zero_counter(backend: str) -> None:
    # Environment 0, episode 0, step 0, reset stream: the first known answer.
    drawn = columns(started(PhiloxWords, 1, backend, seed=0))
    assert [int(word[0]) for word in drawn.values()] == hexadecimal(KNOWN_ANSWERS[0][2])


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 5, 2**63 - 1])
def test_words_are_those_of_seed_id_episode_step_and_stream(backend: str, seed: int) -> None:
    first = 2**31 - 41
    env = started(PhiloxWords, 41, backend, seed, first)
    ids = np.arange(first, first + 41)

    def expected(episode: int, elapsed: int, stream: int) -> list[list[int]]:
        return [word.tolist() for word in philox(seed, ids, episode, elapsed, stream)]

    def drawn() -> list[list[int]]:
        return [word.tolist() for word in columns(env).values()]

    assert drawn() == expected(episode=0, elapsed=0, stream=0)
    for elapsed in range(2):
        step(env)
        assert drawn() == expected(episode=0, elapsed=elapsed, stream=STEP_STREAM)
    env.reset()
    assert drawn() == expected(episode=1, elapsed=0, stream=0)


@pytest.mark.quick
@pytest.mark.skipif(not HAS_TRITON, reason="needs what runs Triton's kernels")
def test_uniforms_and_integers_of_numpy_and_triton_are_equal_bit_for_bit() -> None:
    envs = [started(AllDraws, 300, backend, seed=123456789) for backend in ("numpy", "triton")]
    for _ in range(3):
        for env in envs:
            env.state.low.copy_(torch.arange(300) - 150)
            env.state.high.copy_(torch.arange(300) ** 3)
            step(env)
        one, other = map(columns, envs)
        for name in (*UNIFORMS, "scaled", "whole"):
            assert one[name].tobytes() == other[name].tobytes()
        for name in Draws._fields:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-6)


def test_a_draw_does_not_depend_on_how_many_environments_there_are(backend: str) -> None:
    whole = started(AllDraws, 50, backend, seed=3)
    parts = [started(AllDraws, 17, backend, seed=3), started(AllDraws, 33, backend, seed=3, first=17)]
    for _ in range(3):
        joined = [np.concatenate(pair) for pair in zip(*(columns(part).values() for part in parts), strict=True)]
        for (name, one), other in zip(columns(whole).items(), joined, strict=True):
            # Logarithm and sine may differ in the last bit with the width of the vector unit.
            np.testing.assert_allclose(one, other, rtol=1e-6 if name.startswith("n") else 0, atol=0)
        for env in (whole, *parts):
            step(env)


def test_equal_seeds_given_one_by_one_give_equal_streams_wherever_they_stand(backend: str) -> None:
    env = started(AllDraws, 4, backend)
    env.reset(seed=[5, 6, None, 5])
    for _ in range(2):
        drawn = np.stack([columns(env)[name] for name in UNIFORMS])
        assert np.array_equal(drawn[:, 0], drawn[:, 3])
        assert not np.array_equal(drawn[:, 0], drawn[:, 1])
        step(env)


def test_streams_steps_episodes_and_seeds_all_differ(backend: str) -> None:
    blocks = []
    for seed in (0, 1, 2**32, 2**32 + 1):
        env = started(PhiloxWords, 32, backend, seed)
        for _ in range(2):
            blocks.append(np.stack(list(columns(env).values()), axis=1))
            for _ in range(3):
                step(env)
                blocks.append(np.stack(list(columns(env).values()), axis=1))
            env.reset()
    rows = np.concatenate(blocks)
    assert len(rows) == 4 * 2 * 4 * 32
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)


def test_draws_of_one_function_are_all_distinct(backend: str) -> None:
    drawn = columns(started(AllDraws, 20, backend))
    values = np.stack([drawn[name] for name in UNIFORMS])
    # 200 draws of 24 bits: a collision has a chance of one in a thousand, and this seed has none.
    assert len(np.unique(values)) == values.size
    normals = np.stack([drawn[f"n{i}"] for i in range(6)])
    assert len(np.unique(normals)) == normals.size


@jit
def draw_by_runtime_index(state, action, rng, params):
    total = state.u0
    for i in range(2):
        total += uniform(rng, i)  # refused
    return draws_like(state, total), 0.0, False


@jit
def draw_by_variable(state, action, rng, params):
    number = 3
    total = state.u0 + integers(rng, number, 0, 5)  # refused
    return draws_like(state, total), 0.0, False


@jit
def draw_by_block(state, action, rng, params):
    return draws_like(state, normal(rng, action)), 0.0, False  # refused


@jit
def draws_like(state, value):
    return state


@pytest.mark.parametrize("function", [draw_by_runtime_index, draw_by_variable, draw_by_block], ids=lambda f: f.__name__)
def test_a_draw_number_must_be_known_at_compile_time(function: Any) -> None:
    lines, first = inspect.getsourcelines(function.fn)
    refused = first + next(offset for offset, line in enumerate(lines) if "# refused" in line)
    environment = Environment(
        id="RuntimeDraw-v0",
        state=Draws,
        reset=reset_draws,
        step=function,
        observe=observe_u0,
        observation_space=ANYTHING,
        action_space=spaces.Discrete(2),
    )
    with pytest.raises(UnsupportedConstruct, match="compile-time") as raised:
        environment(2, device="cpu", backend="numpy")
    assert f"{__file__}:{refused}," in str(raised.value)


@jit
def observe_u0(state, params):
    return (state.u0,)
