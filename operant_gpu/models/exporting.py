"""Policies for other programs: ONNX, and PyTorch's own exported programs; each is checked before it is kept."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from operant_gpu.errors import BackendError, ExportError, InvalidConfig, needed
from operant_gpu.files import as_path, write_whole
from operant_gpu.models.contexts import undisturbed
from operant_gpu.models.evaluation import check_learner, copy_of, sibling
from operant_gpu.models.networks import FLOATS
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo.learner import PPO

Tensors = tuple[Tensor, ...]
Call = Callable[[Tensors], Tensors]

_FORMATS = (".onnx", ".pt2")
# Batches to check, and by how much their numbers may differ from the policy's (relative to numbers above 1).
_BATCHES, _STEPS, _TOLERANCE = (1, 7, 64), 32, 1e-4


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        inputs: Their names, in order; the first axis of each is the batch.
        outputs: Likewise.
        error: Greatest difference from the policy that was seen, over all outputs.
        observations: How many observations were compared.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    error: float
    observations: int


class Actor(nn.Module):
    """A policy as a function of tensors alone, for export.

    Inputs are `obs` `(batch, *shape)` of the environment's dtype; `action_mask` `(batch, choices)` bool, if the
    environment has one; for a recurrent policy `state` (batch, state_size) float32 and `starts` (batch,) bool, where an
    episode begins. Outputs are `action` (batch, ...), the likeliest, as the environment takes it; `distribution`
    (batch, k), logits or means; `value` (batch,); for a recurrent policy `next_state`.

    Args:
        policy: The policy, on the CPU; products are in float32.
        has_mask: Whether there are action masks.
    """

    def __init__(self, policy: Policy, has_mask: bool) -> None:
        super().__init__()
        self.policy, self._has_mask = policy, has_mask
        recurrent = bool(policy.state_size)
        self.inputs = ("obs", *(("action_mask",) if has_mask else ()), *(("state", "starts") if recurrent else ()))
        self.outputs = ("action", "distribution", "value", *(("next_state",) if recurrent else ()))

    def forward(self, obs: Tensor, *others: Tensor) -> Tensors:
        """Return action, distribution, value and, for a recurrent policy, the next state."""
        mask = others[0] if self._has_mask else None
        state, starts = others[-2:] if self.policy.state_size else (None, None)
        outputs, values, state = self.policy.one_step(obs, state, starts)
        distribution = self.policy.distribution
        action = distribution.for_environment(distribution.mode(outputs, mask))
        return (action, outputs, values) if state is None else (action, outputs, values, state)


def export(learner: PPO, path: str | os.PathLike[str]) -> Exported:
    """Write a policy to a file for other programs, after its outputs there have been compared with its own.

    Args:
        learner: What has the policy.
        path: A file that ends in .onnx (needs onnx, onnxscript and onnxruntime) or .pt2 (`torch.export`).

    Raises:
        InvalidConfig: If the file is of another kind, or cannot be written.
        BackendError: If a library is missing.
        ExportError: If the policy's network cannot be exported, or does something else there.
    """
    check_learner(learner)
    target = as_path("out", path)
    suffix = target.suffix.lower()
    if suffix not in _FORMATS:
        raise InvalidConfig("out", f"expected a file that ends in {' or '.join(_FORMATS)}, got {str(target)!r}")
    actor = _actor(learner)
    with undisturbed(learner.env.device):
        cases = _cases(actor, learner)
    write, read = (_to_onnx, _read_onnx) if suffix == ".onnx" else (_to_program, _read_program)
    try:
        with _quietly():
            content = write(actor, cases[-1])
    except BackendError:
        raise
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        name = type(actor.policy.network).__name__
        raise ExportError(f"{name} cannot be exported to {suffix}: {type(error).__name__}: {first}") from error
    greatest = _compare(actor, read(content), cases)
    try:
        write_whole(target, content)
    except OSError as error:
        raise InvalidConfig("out", f"cannot write {str(target)!r}: {error}") from error
    return Exported(actor.inputs, actor.outputs, greatest, sum(len(case[0]) for case in cases))


def _actor(learner: PPO) -> Actor:
    """Return a copy of the policy on the CPU, as it is exported."""
    policy = copy_of(learner.policy).cpu()
    policy.use_amp = False
    return Actor(policy, learner.env.action_mask is not None)


def _cases(actor: Actor, learner: PPO) -> list[Tensors]:
    """Return inputs of several batch sizes, as the policy meets them when it acts in its environments."""
    cases, size = [], actor.policy.state_size
    for batch in _BATCHES:
        env = sibling(learner, batch)
        (obs, info), state = env.reset(seed=batch), torch.zeros(batch, size, **FLOATS)
        starts = torch.ones(batch, dtype=torch.bool, device="cpu")
        for _ in range(_STEPS):
            known = {"obs": obs, "action_mask": info.get("action_mask"), "state": state, "starts": starts}
            case = tuple(known[name].cpu().clone() for name in actor.inputs)
            cases.append(case)
            action, _, _, *memory = actor(*case)
            obs, _, terminated, truncated, info = env.step(action.to(env.device))
            state, starts = memory[0] if memory else state, terminated | truncated
    return cases


def _compare(actor: Actor, run: Call, cases: list[Tensors]) -> float:
    """Return the greatest difference between what was exported and the policy.

    Raises:
        ExportError: If it is above what rounding explains, or an action is not the likeliest.
    """
    greatest = 0.0
    for case in cases:
        (action, *numbers), (_, *expected) = run(case), actor(*case)
        for name, found, right in zip(actor.outputs[1:], numbers, expected, strict=True):
            error = float(((found - right).abs() / right.abs().clamp(min=1.0)).max())
            greatest = max(greatest, error)
            # Not `error > ...`: it may be NaN.
            if not error <= _TOLERANCE:
                raise ExportError(f"{name} differs by {error:.3g} from the policy's, expected at most {_TOLERANCE:g}")
        # Of its own numbers: where two actions are equally likely, rounding decides.
        mask = case[actor.inputs.index("action_mask")] if "action_mask" in actor.inputs else None
        distribution = actor.policy.distribution
        likeliest = distribution.for_environment(distribution.mode(numbers[0], mask))
        # Where actions are scaled, a runtime may round the product or not.
        is_near = action.shape == likeliest.shape and action.is_floating_point()
        if not torch.equal(action, likeliest) and not (is_near and torch.allclose(action, likeliest, 1e-5, 1e-6)):
            raise ExportError("an action is not the likeliest one of its distribution")
    return greatest


def _dynamic_shapes(actor: Actor) -> dict[str, Any]:
    """Say that the first axis of each input is the batch."""
    batch, others = {0: Dim("batch")}, len(actor.inputs) - 1
    return {"obs": batch, **({"others": (batch,) * others} if others else {})}


def _to_onnx(actor: Actor, case: Tensors) -> bytes:
    # The second reads what is written with the first.
    for module in ("onnxscript", "onnxruntime"):
        needed("ONNX", module, ", or write a .pt2")
    program = torch.onnx.export(
        actor,
        case,
        dynamo=True,
        verbose=False,
        input_names=actor.inputs,
        output_names=actor.outputs,
        dynamic_shapes=_dynamic_shapes(actor),
    )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _read_onnx(content: bytes) -> Call:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(case: Tensors) -> Tensors:
        feed = {name: tensor.numpy() for name, tensor in zip(names, case, strict=True)}
        return tuple(map(torch.as_tensor, session.run(None, feed)))

    return run


def _to_program(actor: Actor, case: Tensors) -> bytes:
    program = torch.export.export(actor, case, dynamic_shapes=_dynamic_shapes(actor), strict=False)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _read_program(content: bytes) -> Call:
    with warnings.catch_warnings():
        # PyTorch 2.11 takes weights from the file's bytes, and warns that those cannot be written to. Nobody does.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        module = torch.export.load(io.BytesIO(content)).module()
    return lambda case: module(*case)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what PyTorch's exporter says of itself from the user."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)
