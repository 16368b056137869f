"""What the library draws from the streams: actions, random or a network's, and an environment's parameters.

Jit functions like an environment's, for every backend. Actions, logits and conditions are tuples of blocks. Discrete
actions have LOW and HIGH, the bounds of each component; FIRST tells where a component's choices begin among `legal` and
`logits`, which have one block a choice, those of one component after those of another. `legal` is empty where every
action is always legal.
"""

from __future__ import annotations

from operant_gpu.lang import jit, tl
from operant_gpu.random import integers, normal, philox_word, uniform

LOG_SQRT_2PI = tl.constexpr(0.9189385332046727)
LOWEST = tl.constexpr(-3.4028234663852886e38)
# What parameters are drawn from.
UNIFORM, INTEGERS, LOG_UNIFORM, NORMAL, CHOICE = (tl.constexpr(kind) for kind in range(5))


@jit
def random_integers(rng, legal, LOW: tl.constexpr, HIGH: tl.constexpr, FIRST: tl.constexpr):
    """Draw int32 blocks, component i uniform on the legal ones of {LOW[i], ..., HIGH[i] - 1}."""
    action = ()
    for i in tl.static_range(len(LOW)):
        if len(legal) == 0:
            action = action + (integers(rng, i, LOW[i], HIGH[i]),)
        else:
            choice = _random_choice(rng, i, legal, HIGH[i] - LOW[i], FIRST[i])
            action = action + (choice + LOW[i],)
    return action


@jit
def _random_choice(rng, i: tl.constexpr, legal, SIZE: tl.constexpr, FIRST: tl.constexpr):
    """Draw a block uniform on the legal ones of {0, ..., SIZE - 1}; the last one where none is legal."""
    count = rng.env_id * 0
    for j in tl.static_range(SIZE):
        count += tl.where(legal[FIRST + j], 1, count * 0)
    left = integers(rng, i, 0, count)
    choice = rng.env_id * 0 + (SIZE - 1)
    for j in tl.static_range(SIZE):
        is_legal = tl.where(legal[FIRST + j], 1, count * 0)
        choice = tl.where((is_legal == 1) & (left == 0), j, choice)
        left -= is_legal
    return choice


@jit
def random_floats(rng, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Draw float32 blocks, component i uniform on [LOW[i], HIGH[i])."""
    action = ()
    for i in tl.static_range(len(LOW)):
        action = action + (uniform(rng, i, LOW[i], HIGH[i]),)
    return action


@jit
def categorical(rng, logits, legal, LOW: tl.constexpr, HIGH: tl.constexpr, FIRST: tl.constexpr):
    """Draw int32 blocks from the softmax of each component's logits; return them and the log-probability of all."""
    action = ()
    log_prob = rng.env_id * 0.0
    for i in tl.static_range(len(LOW)):
        choice, component_log_prob = _softmax_choice(rng, i, logits, legal, HIGH[i] - LOW[i], FIRST[i])
        action = action + (choice + LOW[i],)
        log_prob += component_log_prob
    return action, log_prob


@jit
def _softmax_choice(rng, i: tl.constexpr, logits, legal, SIZE: tl.constexpr, FIRST: tl.constexpr):
    """Invert the distribution function at one uniform number; illegal choices have no weight."""
    highest = _legal_logit(logits, legal, FIRST)
    for j in tl.static_range(1, SIZE):
        highest = tl.maximum(highest, _legal_logit(logits, legal, FIRST + j))
    total = rng.env_id * 0.0
    for j in tl.static_range(SIZE):
        total += tl.exp(_legal_logit(logits, legal, FIRST + j) - highest)
    target = uniform(rng, i) * total
    # The last choice that any weight was given to, if rounding has left the target beyond all of them.
    choice = rng.env_id * 0
    chosen_logit = highest
    found = rng.env_id != rng.env_id
    sum_so_far = rng.env_id * 0.0
    for j in tl.static_range(SIZE):
        logit = _legal_logit(logits, legal, FIRST + j)
        weight = tl.exp(logit - highest)
        takes = (weight > 0.0) & ~found
        choice = tl.where(takes, j, choice)
        chosen_logit = tl.where(takes, logit, chosen_logit)
        sum_so_far += weight
        found = found | (takes & (target < sum_so_far))
    return choice, chosen_logit - highest - tl.log(total)


@jit
def _legal_logit(logits, legal, j: tl.constexpr):
    if len(legal) == 0:
        return logits[j]
    else:
        return tl.where(legal[j], logits[j], LOWEST)


@jit
def gaussian(rng, means, log_stds):
    """Draw float32 blocks from independent normals; return them and their log-density."""
    action = ()
    log_prob = rng.env_id * 0.0
    for i in tl.static_range(len(means)):
        noise = normal(rng, i)
        action = action + (means[i] + noise * tl.exp(log_stds[i]),)
        log_prob += -0.5 * noise * noise - log_stds[i] - LOG_SQRT_2PI
    return action, log_prob


@jit
def parameter(rng, i: tl.constexpr, kind: tl.constexpr, numbers: tl.constexpr):
    """Return draw number `i` of a parameter, a block or a number.

    Args:
        rng: Of the stream of parameters.
        i: Number of the draw.
        kind: UNIFORM, INTEGERS, LOG_UNIFORM, NORMAL or CHOICE.
        numbers: Of the distribution: low and high (for integers one more than the largest); the logarithms of both to
            base 2, low and high; mean, deviation, low and high; or the values.
    """
    if kind == UNIFORM:
        return uniform(rng, i, numbers[0], numbers[1])
    elif kind == INTEGERS:
        return integers(rng, i, numbers[0], numbers[1])
    elif kind == LOG_UNIFORM:
        return tl.clamp(tl.exp2(uniform(rng, i, numbers[0], numbers[1])), numbers[2], numbers[3])
    elif kind == NORMAL:
        return tl.clamp(normal(rng, i) * numbers[1] + numbers[0], numbers[2], numbers[3])
    else:
        chosen = numbers[0]
        place = integers(rng, i, 0, len(numbers))
        for j in tl.static_range(1, len(numbers)):
            chosen = tl.where(place == j, numbers[j], chosen)
        return chosen


@jit
def branch_seed(rng):
    """Return the int64 key that a branch has for draws of its own: in [0, 2**63), as the seeds that users give.

    Args:
        rng: Stream `BRANCH_STREAM` of its source's key and its own environment id. In place of episode and step are
            the lower and the upper half of the number of such keys that its row has had: so it never has one twice.
    """
    upper = philox_word(rng, 1).to(tl.int64) & 0x7FFFFFFF
    return (upper << 32) | philox_word(rng, 0).to(tl.int64)
