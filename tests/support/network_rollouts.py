"""Rollouts with a network, checked in full: numbers against float64, draws against the streams, the rest by steps."""

from __future__ import annotations

import numpy as np
import torch
from contract_envs import assert_same_tensors, everything
from rollouts import (
    Evaluation,
    Outputs,
    Policy,
    all_names,
    assert_same_environments,
    assert_taken,
    evaluate_by_hand,
    single_steps_and_streams,
)

from operant_gpu import AutoresetMode, VecEnv
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.mlp import MLP
from operant_gpu.random import normal
from operant_gpu.spaces import ActionLayout, action_layout

STEPS = 8
# Of float32 against float64, for numbers around 1 to 10.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def assert_normal_draws(
    evaluation: Evaluation, stream: NumpyRng, action: np.ndarray, log_prob: np.ndarray, close: dict[str, float]
) -> None:
    noise = np.stack([lower_to_numpy(normal)(stream, i) for i in range(action.shape[1])], -1).astype(np.float64)
    np.testing.assert_allclose(action, evaluation.outputs + noise * np.exp(evaluation.log_std), **close)
    density = -0.5 * noise**2 - evaluation.log_std - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_prob, density.sum(1), **close)


def assert_categorical_draws(
    layout: ActionLayout,
    evaluation: Evaluation,
    stream: NumpyRng,
    action: np.ndarray,
    log_prob: np.ndarray,
    mask: np.ndarray | None,
    close: dict[str, float],
) -> None:
    """Check that each choice is where the uniform number of its component cuts the distribution function."""
    rows, total = np.arange(len(action)), np.zeros(len(action))
    for i, (first, low, high) in enumerate(zip(layout.first_choices, layout.low, layout.high)):
        columns = slice(first, first + high - low)
        logits = evaluation.outputs[:, columns]
        logits = logits if mask is None else np.where(mask[:, columns], logits, -np.inf)
        logits = logits - logits.max(1, keepdims=True)
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        choice = action.reshape(len(action), -1)[:, i] - low
        above = chances.cumsum(1)[rows, choice]
        unit = (stream.compute(i // 4)[i % 4] >> 8) * 2.0**-24
        below = above - chances[rows, choice]
        assert ((unit < above + close["atol"]) & (unit > below - close["atol"])).all()
        total += np.log(chances[rows, choice])
    np.testing.assert_allclose(log_prob, total, **close)


def continuing(env: VecEnv, stored: Outputs, ended_before: torch.Tensor) -> torch.Tensor:
    """Return where `final_value` is a value: truncated alone, or going on after the last step."""
    done = stored["terminated"] | stored["truncated"]
    wanted = stored["truncated"] & ~stored["terminated"]
    over = ended_before | done.any(0) if env.autoreset_mode is AutoresetMode.DISABLED else done[-1]
    wanted[-1] |= ~over
    return wanted


def assert_network_rollout(
    env: VecEnv, reference: VecEnv, network: MLP, steps: int = STEPS, close: dict[str, float] = CLOSE
) -> Outputs:
    """Roll out, and check all that is stored; return it, on the CPU."""
    ended_before = everything(reference)["columns.ended"].cpu()
    stored = env.rollout(steps, Policy(network), all_names(env))
    expected, streams = single_steps_and_streams(reference, stored["action"])
    assert_same_tensors({key: stored[key] for key in expected}, expected)
    assert_same_environments(env, reference)
    stored = {name: tensor.cpu() for name, tensor in stored.items()}
    assert_taken(env, network, stored["policy_action"], stored["action"])
    layout = action_layout(env.single_action_space)
    for t, stream in enumerate(streams):
        evaluation = evaluate_by_hand(network, stored["obs"][t])
        np.testing.assert_allclose(stored["value"][t].numpy(), evaluation.values, **close)
        action, log_prob = stored["policy_action"][t].numpy(), stored["log_prob"][t].numpy()
        if layout.is_discrete:
            mask = stored["action_mask"][t].numpy() if "action_mask" in stored else None
            assert_categorical_draws(layout, evaluation, stream, action, log_prob, mask, close)
        else:
            assert_normal_draws(evaluation, stream, action, log_prob, close)
    values = evaluate_by_hand(network, stored["final_obs"].flatten(0, 1)).values.reshape(steps, -1)
    wanted = continuing(env, stored, ended_before)
    np.testing.assert_allclose(stored["final_value"].numpy(), np.where(wanted, values, 0.0), **close)
    assert not stored["final_value"][~wanted].any()
    return stored
