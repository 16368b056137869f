"""Steps beside the CPU's, rollouts beside single steps, graphs beside launches."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.select import BACKENDS
from operant_gpu.errors import BackendError, one_line
from operant_gpu.spaces import action_layout
from operant_gpu.vector import Snapshot, VecEnv, graphs
from operant_gpu.verification.comparing import Differs, Inapplicable, Unavailable, assert_equal, assert_near
from operant_gpu.verification.statements import first_difference

Maker = Callable[..., VecEnv]

# Backends of a GPU.
ON_GPU = [name for name, entry in BACKENDS.items() if entry.on_gpu]

# Fills no block of environments; episodes are cut often.
NUM_ENVS, STEPS, LIMIT, SEED = 300, 20, 9, 7
# Where there are floats, one that is compared with a bound may fall on its other side.
_ON_A_BOUND = 1e-3


def started(make: Maker, **settings: object) -> VecEnv:
    """Return environments after a reset."""
    env = make(NUM_ENVS, max_episode_steps=LIMIT, **settings)
    env.reset(seed=SEED)
    return env


def stored_names(env: VecEnv) -> list[str]:
    """Return what a rollout can store of environments. Each other choice would be a kernel more to compile."""
    masks = [] if env.action_mask is None else ["action_mask"]
    return ["obs", *masks, "action", "reward", "terminated", "truncated", "final_obs"]


def chance(env: VecEnv, steps: int) -> str | Tensor:
    """Return "random"; for a Box without bounds, where that cannot be, normal numbers within those that it has."""
    layout = action_layout(env.single_action_space)
    low, high = (torch.tensor(bounds, dtype=torch.float32) for bounds in (layout.box_low, layout.box_high))
    if (high - low).isfinite().all():
        return "random"
    generator = torch.Generator().manual_seed(SEED)
    normal = torch.randn(steps, env.num_envs, *layout.shape, generator=generator)
    return normal.clamp(low.view(layout.shape), high.view(layout.shape)).to(env.device)


def compare_steps(make: Maker, plain: str, mode: AutoresetMode) -> str:
    """Take each step from the same state here and on a CPU's plain backend."""
    try:
        reference = started(make, device="cpu", backend=plain, autoreset_mode=mode)
    except BackendError as error:
        raise Unavailable(f"nothing to compare with: {one_line(error)}") from error
    env = started(make, autoreset_mode=mode)
    differing: Counter[str] = Counter()
    has_floats = any(column.is_floating_point() for column in reference.state)
    ulps, on_a_bound, total = _compare("the first state", _state(env), _state(reference)), 0, STEPS * env.num_envs
    parted: tuple[Snapshot, Tensor] | None = None
    for step in range(STEPS):
        start, before = reference.state_dict(), reference.snapshot()
        env.load_state_dict(start)
        # Two, since for one alone Triton compiles another kernel.
        drawn, actions = (
            one.rollout(2, chance(one, 2), out=stored_names(one))["action"][0] for one in (env, reference)
        )
        assert_equal(f"random actions of step {step}", drawn, actions)
        for one in (env, reference):
            one.load_state_dict(start)
        found, expected = (_after(one, taken) for one, taken in ((env, drawn), (reference, actions)))
        agree = torch.ones(env.num_envs, dtype=torch.bool)
        if has_floats:
            exact = [name for name, tensor in expected.items() if not tensor.is_floating_point()]
            for name in exact:
                same = (found[name].cpu() == expected[name]).reshape(env.num_envs, -1).all(1)
                differing[name] += int((~same).sum())
                agree &= same
        on_a_bound += int((~agree).sum())
        parted = parted or (None if agree.all() else (before, actions))
        kept, wanted = ({name: one.cpu()[agree] for name, one in named.items()} for named in (found, expected))
        try:
            ulps = max(ulps, _compare(f"step {step}", kept, wanted))
        except Differs as error:
            raise Differs(f"{error}{_first(env, reference, (before, actions))}") from None
        if mode is AutoresetMode.DISABLED:
            reference.reset(options={"reset_mask": expected["terminated"] | expected["truncated"]})
    listed = ", ".join(f"{name} in {count}" for name, count in differing.most_common(3))
    if on_a_bound > _ON_A_BOUND * total:
        counted = f"integers differ in {on_a_bound} of {total} steps, expected at most 1 in 1,000: {listed}"
        raise Differs(f"{counted}{_first(env, reference, parted)}")
    beyond = f" but in {on_a_bound}, as where a float is near a bound: {listed}" if on_a_bound else ""
    return f"{total:,} steps: draws equal, floats within {ulps:.3g} ulps, integers equal{beyond}"


def _first(env: VecEnv, reference: VecEnv, parted: tuple[Snapshot, Tensor] | None) -> str:
    """Return the first statement that differs in a step, behind a semicolon; nothing if that cannot be told."""
    place = None
    # That something differs is to be told, whatever becomes of this.
    with contextlib.suppress(Exception):
        place = None if parted is None else first_difference(env, reference, *parted)
    return "" if place is None else f"; {place}"


def compare_rollouts(make: Maker, mode: AutoresetMode) -> str:
    """Take the steps of a rollout one by one."""
    env, single = (started(make, autoreset_mode=mode) for _ in range(2))
    names = stored_names(env)
    stored = env.rollout(STEPS, chance(env, STEPS), out=names)
    seen = [name for name in names if name in ("obs", "action_mask")]
    for step, action in enumerate(stored["action"]):
        before = {"obs": single.observe().clone()}
        if single.action_mask is not None:
            before["action_mask"] = single.action_mask.clone()
        after = _after(single, action)
        for name in names:
            if name != "action":
                one = before[name] if name in seen else after[name]
                assert_equal(f"{name} of step {step}", stored[name][step], one)
    for name, tensor in _state(env).items():
        assert_equal(f"{name} after {STEPS} steps", tensor, _state(single)[name])
    return f"{STEPS * env.num_envs:,} steps: equal in bits"


def compare_replays(make: Maker) -> str:
    """Capture a step, and replay it beside steps that are launched."""
    launched, captured = (started(make) for _ in range(2))
    if not graphs.has_graphs(captured.device):
        raise Inapplicable("there are no CUDA graphs on a CPU")
    actions = launched.rollout(STEPS, chance(launched, STEPS), out=stored_names(launched))["action"]
    launched.reset(seed=SEED)
    action = actions[0].clone()
    replay = captured.capture(lambda: captured.step(action))
    for step, taken in enumerate(actions):
        action.copy_(taken)
        result = replay()
        expected = _after(launched, taken)
        for name, tensor in zip(("obs", "reward", "terminated", "truncated"), result):
            assert_equal(f"{name} of step {step}", tensor, expected[name])
    return f"{STEPS} replays, {captured.num_envs} environments: equal in bits"


def _state(env: VecEnv) -> dict[str, Tensor]:
    own = {f"params.{name}": one for name, one in env.params._asdict().items() if isinstance(one, Tensor) and one.ndim}
    return {**{f"state.{name}": column for name, column in env.state._asdict().items()}, **own}


def _after(env: VecEnv, actions: Tensor) -> dict[str, Tensor]:
    """Take a step; return what it gave, by name."""
    obs, reward, terminated, truncated, info = env.step(actions)
    named = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
    named |= {"final_obs": info["final_obs"], "return": info["episode"]["r"], "length": info["episode"]["l"]}
    named |= {f"metric {name}": metric for name, metric in info.get("metrics", {}).items()}
    return named | _state(env) | ({} if env.action_mask is None else {"action_mask": env.action_mask})


def _compare(when: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(assert_near(f"{name} of {when}", found[name], tensor) for name, tensor in expected.items())
