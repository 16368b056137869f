"""Counter-based random numbers for environment functions.

There is no generator state. Draw number `i` is a pure function of the seed (the key of Philox4x32-10,
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and of a counter: global environment id,
episode number, step within the episode, and stream with draw block. It is therefore the same for every
`num_envs`, block size, backend and number of processes.

`uniform` and `integers` with the same `i` read the same word: give each draw of a function its own number.
`normal` has words of its own. `i` must be known at compile time: a literal, or the index of a
`tl.static_range` loop.
"""

from __future__ import annotations

from typing import NamedTuple

from operant_gpu.lang import jit, tl

__all__ = ["Rng", "integers", "normal", "uniform"]

# The last counter word is (stream << 28) | (1 << 27 for normals) | block of four draws. Learners shuffle by stream 3.
RESET_STREAM = tl.constexpr(0 << 28)
STEP_STREAM = tl.constexpr(1 << 28)
POLICY_STREAM = tl.constexpr(2 << 28)
PARAMS_STREAM = tl.constexpr(4 << 28)
ELAPSED_STREAM = tl.constexpr(5 << 28)
BRANCH_STREAM = tl.constexpr(6 << 28)

_NORMAL = tl.constexpr(1 << 27)
_ULP = tl.constexpr(2.0**-24)
_TWO_PI = tl.constexpr(6.283185307179586)


class Rng(NamedTuple):
    """The key and counter of one stream, one number per environment in each field but the last."""

    seed: tl.int64
    env_id: tl.int32
    episode: tl.int32
    step: tl.int32
    stream: int


@jit
def philox_words(rng, block):
    """Return the four uint32 words of one counter block."""
    return tl.philox(rng.seed, rng.env_id, rng.episode, rng.step, rng.stream + block)


@jit
def philox_word(rng, i: tl.constexpr):
    """Return word number `i` of a stream."""
    w0, w1, w2, w3 = philox_words(rng, i // 4)
    if i % 4 == 0:
        return w0
    elif i % 4 == 1:
        return w1
    elif i % 4 == 2:
        return w2
    else:
        return w3


@jit
def _unit(word):
    # The upper 24 bits fill a float32 exactly: multiples of 2**-24 in [0, 1), equal on every backend.
    return (word >> 8).to(tl.float32) * _ULP


@jit
def uniform(rng, i: tl.constexpr, low=0.0, high=1.0):
    """Draw float32 numbers uniform on [low, high).

    `high` itself can come out only where float32 has no number between it and the largest draw.

    Args:
        rng: The stream that the function was given.
        i: Number of the draw, from 0.
        low: Lower end, a number or a block.
        high: Upper end, a number or a block.
    """
    return _unit(philox_word(rng, i)) * (high - low) + low


@jit
def integers(rng, i: tl.constexpr, low, high):
    """Draw int32 numbers uniform on {low, ..., high - 1}.

    A 32-bit word `w` becomes `low + floor(w * (high - low) / 2**32)`. No draw is rejected, so each one costs the same.
    With `n = high - low` values, the probability of a value differs from `1 / n` by less than `2**-32`. The relative
    error is below `n / 2**32`, which is under 3e-8 for up to 100 values.

    Args:
        rng: The stream that the function was given.
        i: Number of the draw, from 0.
        low: Smallest value, a number or a block.
        high: One more than the largest value; `high - low` must be at least 1 and less than `2**31`.
    """
    return low + tl.umulhi(philox_word(rng, i), tl.cast(high - low, tl.uint32)).to(tl.int32)


@jit
def normal(rng, i: tl.constexpr):
    """Draw float32 numbers from the standard normal distribution (Box and Muller, 1958).

    Magnitudes reach 5.77, the limit of a 24-bit radius.

    Args:
        rng: The stream that the function was given.
        i: Number of the draw, from 0; independent of the draws of `uniform` and `integers`.
    """
    w0, w1, w2, w3 = philox_words(rng, _NORMAL + i // 4)
    if i % 4 < 2:
        radius, angle = _unit(w0), _unit(w1)
    else:
        radius, angle = _unit(w2), _unit(w3)
    # 1 - u lies in (0, 1], where the logarithm is finite.
    length = tl.sqrt(-2.0 * tl.log(1.0 - radius))
    if i % 2 == 0:
        return length * tl.cos(angle * _TWO_PI)
    else:
        return length * tl.sin(angle * _TWO_PI)
