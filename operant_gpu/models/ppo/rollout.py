"""Storage of one iteration's steps, written in place by the environments, and what is estimated from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.trajectory import Storage, Trajectory
from operant_gpu.models.policies.policy import Policy
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.vector import VecEnv


class Rollout:
    """Buffers of `n_steps` steps of every environment, time first; named as `VecEnv.rollout` names its outputs.

    Args:
        env: The environments.
        policy: What acts in them.
        n_steps: How many steps.
        stores_rows: Whether observations and masks are to lie one after the other, for who reads them one by one.

    Attributes:
        obs: (n_steps + 1, num_envs, *shape), the last row what follows the last step.
        final_obs: (n_steps, num_envs, *shape), the observation after each step and before any reset.
        action_mask: (n_steps + 1, num_envs, choices) bool, legal actions; None where all always are.
        starts: (n_steps + 1, num_envs) bool, whether the observation begins an episode; for recurrent policies.
        states: (n_steps + 1, num_envs, state_size), the policy's memory before each observation; for recurrent ones.
        policy_action: (n_steps, num_envs, ...), as drawn: those of a Box in the policy's units, which `log_prob` is of.
        log_prob, value, reward: (n_steps, num_envs) float32.
        final_value: (n_steps, num_envs) float32, of what follows a step that a time limit cut, or the last one; for
            fused engines.
        terminated, truncated: (n_steps, num_envs) bool.
        steps: The steps alone, without what follows the last: where `VecEnv.rollout` stores them.
        under_way: (2, 2, num_envs) float64, what the episodes under way had come to before the steps and after them:
            their returns and their lengths.
        reported: (2, metrics, num_envs) float64, the sums of the metrics of episodes that had ended before the steps
            and after them.
    """

    def __init__(self, env: VecEnv, policy: Policy, n_steps: int, stores_rows: bool = False) -> None:
        self.n_steps, self._for_environment = n_steps, policy.distribution.for_environment
        storage = storage_of(env, env.num_envs, stores_rows or env.stores_rows)

        def zeros(name: str, steps: int = n_steps) -> Tensor:
            return storage.allocate(name, steps).zero_()

        self.obs, self.final_obs = zeros("obs", n_steps + 1), zeros("final_obs")
        self.action_mask = None if env.action_mask is None else zeros("action_mask", n_steps + 1)
        self.policy_action, self.log_prob, self.value = map(zeros, ("policy_action", "log_prob", "value"))
        self.reward, self.final_value = zeros("reward"), zeros("final_value")
        self.terminated, self.truncated = zeros("terminated"), zeros("truncated")
        memory, rows = policy.state_size, (n_steps + 1, env.num_envs)
        self.starts = torch.zeros(rows, dtype=torch.bool, device=env.device) if memory else None
        self.states = torch.zeros(*rows, memory, dtype=torch.float32, device=env.device) if memory else None
        # Actions in the environment's units are made of the others, for who asks.
        fields = {name: getattr(self, name) for name in Trajectory._fields if name != "action"}
        self.steps = Trajectory(**{name: None if one is None else one[:n_steps] for name, one in fields.items()})
        self.under_way = torch.zeros(2, 2, env.num_envs, dtype=torch.float64, device=env.device)
        metrics = len(env.metric_sums)
        self.reported = torch.zeros(2, metrics, env.num_envs, dtype=torch.float64, device=env.device)
        # Made once: taking a row of a tensor costs a microsecond each time.
        self._outputs = [self._step_outputs(step) for step in range(n_steps)]

    @property
    def action(self) -> Tensor:
        """What the environments got, (n_steps, num_envs, ...): discrete actions from the space's start on."""
        return self._for_environment(self.policy_action)

    @property
    def ended(self) -> Tensor:
        """Where a step ended its episode, (n_steps, num_envs)."""
        return self.terminated | self.truncated

    def outputs(self, step: int) -> dict[str, Tensor]:
        """Return where the environments write step number `step`."""
        return self._outputs[step]

    def _step_outputs(self, step: int) -> dict[str, Tensor]:
        tensors = {name: getattr(self, name) for name in Outputs._fields if getattr(self, name) is not None}
        return {name: tensor[step + (name in ("obs", "action_mask"))] for name, tensor in tensors.items()}

    def inputs(self, step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the observation, state and starts that the policy sees at a step."""
        return self.obs[step], _row(self.states, step), _row(self.starts, step)

    def begin(self, env: VecEnv) -> None:
        """Write what the environments show now to the last row, to go on from there with an empty memory."""
        env.observe()
        self.follow(env)
        if self.starts is not None:
            self.starts[-1] = True

    def follow(self, env: VecEnv) -> None:
        """Write what the environments showed last to the last row."""
        self.obs[-1] = env.shown
        if self.action_mask is not None and env.action_mask is not None:
            self.action_mask[-1] = env.action_mask

    def note(self, env: VecEnv, moment: int) -> None:
        """Note what the episodes have come to, before the steps (moment 0) or after them (1)."""
        for place, column in enumerate(env.episode_so_far):
            # An episode with a reward that is not finite, which training reports as a fault, begins anew after it.
            self.under_way[moment, place] = column.nan_to_num(0.0, 0.0, 0.0)
        for place, column in enumerate(env.metric_sums.values()):
            self.reported[moment, place] = column

    def leave_out(self, stopped: Tensor) -> None:
        """Put the steps of others in the place of those of some environments (num_envs,): nothing tells of them then.

        Where all have stopped, nothing is changed.
        """
        own = torch.arange(len(stopped), device=stopped.device)
        sound = stopped.byte().argsort(stable=True)
        others = sound[own % (~stopped).sum().clamp(min=1)]
        source = torch.where(stopped & ~stopped.all(), others, own)
        # Of what has a row behind the last step, that one too.
        steps = self.steps._replace(obs=self.obs, action_mask=self.action_mask)
        for tensor in (*steps, self.starts, self.states):
            if tensor is not None:
                tensor.copy_(tensor.index_select(1, source))

    def begin_anew(self, env: VecEnv, stopped: Tensor) -> None:
        """Let some environments (num_envs,) begin new episodes, from the rollout's last row on."""
        env.reset(options={"reset_mask": stopped})
        self.follow(env)
        if self.starts is not None:
            self.starts[-1] |= stopped

    def memory(self) -> dict[str, Tensor]:
        """Return what a recurrent policy remembers after the last step, and where it is to forget."""
        if self.states is None or self.starts is None:
            return {}
        return {"state": self.states[-1].clone(), "starts": self.starts[-1].clone()}

    def remember(self, memory: Mapping[str, Tensor], env: VecEnv) -> None:
        """Go on with a memory, but for environments whose episodes have only begun."""
        if self.states is not None and self.starts is not None:
            self.states[-1], self.starts[-1] = memory["state"], memory["starts"] | (env.episode_so_far[1] == 0)


def storage_of(env: VecEnv, num_envs: int, stores_rows: bool) -> Storage:
    """Return what allocates the steps of so many environments like these."""
    layouts = observation_layout(env.single_observation_space), action_layout(env.single_action_space)
    choices = 0 if env.action_mask is None else env.action_mask.shape[1]
    return Storage(num_envs, env.device, *layouts, choices, stores_rows)


def _row(tensor: Tensor | None, step: int) -> Tensor | None:
    return None if tensor is None else tensor[step]


def collect(env: VecEnv, policy: Policy, rollout: Rollout, generator: Generator) -> None:
    """Step the environments `n_steps` times, on from the rollout's last row, into the rollout."""
    # Inference mode costs less, but a network of the caller's own may keep tensors that it then cannot learn with.
    with torch.inference_mode() if policy.is_built_in else torch.no_grad():
        _collect(env, policy, rollout, generator)


def _collect(env: VecEnv, policy: Policy, rollout: Rollout, generator: Generator) -> None:
    for kept in (rollout.obs, rollout.action_mask, rollout.starts, rollout.states):
        if kept is not None:
            kept[0] = kept[-1]
    for step in range(rollout.n_steps):
        decision = policy.act(*rollout.inputs(step), _row(rollout.action_mask, step), generator)
        rollout.policy_action[step] = decision.actions
        rollout.log_prob[step] = decision.log_probs
        rollout.value[step] = decision.values
        actions = policy.distribution.for_environment(decision.actions)
        env.step(actions, out=rollout.outputs(step))
        if decision.state is not None and rollout.states is not None and rollout.starts is not None:
            rollout.states[step + 1] = decision.state
            torch.logical_or(rollout.terminated[step], rollout.truncated[step], out=rollout.starts[step + 1])


@torch.no_grad()
def next_values(rollout: Rollout, policy: Policy, max_episode_steps: int | None) -> Tensor:
    """Return the value (n_steps, num_envs) of the observation after each step, before any reset.

    Where the time limit cut an episode, that is the value of its final observation: the episode would have gone on.
    Truncations of one environment are at least `max_episode_steps` apart, so that a stretch of so many steps holds at
    most one. One batch of values for each stretch suffices, and no wait for the device to tell where they are.
    """
    last = policy.value(*rollout.inputs(rollout.n_steps))
    following = torch.cat([rollout.value[1:], last[None]])
    stretch = min(max_episode_steps or rollout.n_steps, rollout.n_steps)
    for first in range(0, rollout.n_steps, stretch):
        steps = slice(first, first + stretch)
        cut = rollout.truncated[steps] & ~rollout.terminated[steps]
        value = policy.value(*_final_inputs(rollout, first + cut.byte().argmax(0)))
        following[steps] = torch.where(cut, value, following[steps])
    return following


def _final_inputs(rollout: Rollout, step: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what the policy sees at the end of one step of each environment, (num_envs,)."""
    environment = torch.arange(len(step), device=step.device)
    obs = rollout.final_obs[step, environment]
    if rollout.states is None or rollout.starts is None:
        return obs, None, None
    return obs, rollout.states[step + 1, environment], torch.zeros_like(rollout.starts[0])


def generalized_advantages(
    rewards: Tensor, values: Tensor, following: Tensor, terminated: Tensor, ended: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return generalized advantage estimates (Schulman et al., 2016, equation 16).

    A terminated episode is worth nothing further; one that ended otherwise is worth the value of what would have
    followed. Neither lets the advantages of the next episode through.

    Args:
        rewards: (n_steps, num_envs), as are all the others.
        values: Of the observations before each step.
        following: Values of the observations after each step, before any reset.
        terminated: Whether the step ended its episode for good.
        ended: Whether the step ended its episode, for good or at the time limit.
        gamma: Discount factor.
        lam: Weight of longer returns.
    """
    deltas = rewards + gamma * following * ~terminated - values
    carries = gamma * lam * ~ended
    advantages = torch.empty_like(rewards)
    running = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        running = deltas[step] + carries[step] * running
        advantages[step] = running
    return advantages


class Minibatch(NamedTuple):
    """Steps to learn from: those of an iteration, or a part of them.

    For a network without memory the first axis is the step. For a recurrent one the first two are time and sequence,
    and `state` (1, sequences, state_size) is what precedes the sequences.
    """

    obs: Tensor
    policy_action: Tensor
    log_prob: Tensor
    value: Tensor
    advantages: Tensor
    returns: Tensor
    action_mask: Tensor | None
    starts: Tensor | None
    state: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> Minibatch:
        """Return the batch with a function applied to each tensor it has."""
        return Minibatch._make(None if tensor is None else function(tensor) for tensor in self)


def make_batch(rollout: Rollout, advantages: Tensor) -> Minibatch:
    """Return a rollout's steps with their advantages, and the returns that the critic learns."""
    batch = Minibatch(
        obs=rollout.obs[:-1],
        policy_action=rollout.policy_action,
        log_prob=rollout.log_prob,
        value=rollout.value,
        advantages=advantages,
        returns=advantages + rollout.value,
        action_mask=rollout.steps.action_mask,
        starts=None if rollout.starts is None else rollout.starts[:-1],
        state=None if rollout.states is None else rollout.states[:1],
    )
    return batch if batch.state is not None else batch.map(lambda tensor: tensor.flatten(0, 1))


def minibatches(batch: Minibatch, batch_size: int, generator: Generator) -> Iterator[Minibatch]:
    """Shuffle a batch's steps, or a recurrent one's sequences, and yield parts of at least `batch_size` steps."""
    axis, length = (0, 1) if batch.state is None else (1, len(batch.obs))
    count = batch.obs.shape[axis]
    parts = max(1, count // math.ceil(batch_size / length))
    order = permutation(count, generator)
    shuffled = batch.map(lambda tensor: tensor.index_select(axis, order))
    columns = ([None] * parts if tensor is None else tensor.tensor_split(parts, axis) for tensor in shuffled)
    yield from map(Minibatch._make, zip(*columns, strict=True))


def permutation(size: int, generator: Generator) -> Tensor:
    """Return the numbers below `size` in random order, without waiting for the device."""
    if generator.device.type == "cuda":
        # Sorting random keys is known to be capturable in a CUDA graph; two equal keys only keep their order.
        return torch.rand(size, generator=generator, dtype=torch.float32, device=generator.device).argsort()
    return torch.randperm(size, generator=generator, device=generator.device)
