"""Generalized advantage estimates in one pass over time.

One program takes a block of environments; nothing but its running values is kept between steps. The reference is
`operant_gpu.models.ppo.rollout.generalized_advantages`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.objective import hyperparameters


@triton.jit(do_not_specialize=["num_steps"])
def advantages_kernel(
    advantage_ptr,
    reward_ptr,
    value_ptr,
    final_value_ptr,
    terminated_ptr,
    truncated_ptr,
    hyperparameters_ptr,
    num_envs,
    num_steps,
    LEARNER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the advantages (num_steps, num_envs).

    `final_value_ptr` has the value of what followed a step that the time limit cut, or the last one.
    """
    env = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = env < num_envs
    now = hyperparameters(hyperparameters_ptr, LEARNER)
    following = tl.zeros((BLOCK,), tl.float32)
    running = tl.zeros((BLOCK,), tl.float32)
    for i in range(num_steps):
        step = num_steps - 1 - i
        at = step * tl.cast(num_envs, tl.int64) + env
        terminated = tl.load(terminated_ptr + at, mask=mask, other=0) != 0
        ended = terminated | (tl.load(truncated_ptr + at, mask=mask, other=0) != 0)
        value = tl.load(value_ptr + at, mask=mask, other=0.0)
        final_value = tl.load(final_value_ptr + at, mask=mask, other=0.0)
        following = tl.where(ended | (i == 0), final_value, following)
        following = tl.where(terminated, 0.0, following)
        delta = tl.load(reward_ptr + at, mask=mask, other=0.0) + now.gamma * following - value
        running = delta + now.gamma * now.gae_lambda * tl.where(ended, 0.0, running)
        tl.store(advantage_ptr + at, running, mask=mask)
        following = value
