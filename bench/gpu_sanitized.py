"""Steps, a rollout and an update, small, and what compute-sanitizer says of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from gpu_reporter import NotHere

# For each of two tools, of the stage's 60.
SECONDS = 28.0
PROGRAM = "import gpu_sanitized; gpu_sanitized.program()"
# What it says where it cannot work.
REFUSALS = "Device not supported", "not supported", "error 999", "Unable to", "Failed to", "No attachable process"


def program() -> None:
    """Step environments of each kind, roll one out with a network, and learn for one iteration."""
    import torch

    import operant_gpu
    from operant_gpu.models import PPO, PPOConfig

    for name in ("CartPole-v1", "Snake-v0", "MinAtar-Breakout-v1"):
        env = operant_gpu.make(name, 100)
        env.reset(seed=0)
        actions = env.rollout(4, out=["action"])["action"]
        for step in range(4):
            env.step(actions[step])
    config = PPOConfig.for_env("CartPole-v1", num_envs=64, n_steps=16, batch_size=256, engine="fused")
    # One iteration, which is launched kernel by kernel.
    learner = PPO(operant_gpu.make("CartPole-v1", 64), config).learn(64 * 16)
    torch.cuda.synchronize()
    print("the program came to its end:", learner.engine, flush=True)


def check(tool: str) -> str:
    """Run the program under one of the sanitizer's tools; return what it found in words.

    Raises:
        NotHere: If there is no sanitizer, or it refuses to work here.
        RuntimeError: If it found something, or the program did not come to its end.
    """
    usual = Path("/usr/local/cuda/bin/compute-sanitizer")
    found = shutil.which("compute-sanitizer") or (str(usual) if usual.exists() else None)
    if found is None:
        raise NotHere("compute-sanitizer is not installed")
    command = [found, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", PROGRAM]
    # A block of memory for each tensor: what is beside it belongs to nobody.
    variables = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    text = ""
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        for line in process.stdout:
            # At once: the log has it whatever becomes of this process.
            print(line, end="", flush=True)
            text += line
        limit.cancel()
    if process.returncode < 0:
        raise RuntimeError(
            f"ended by {signal.Signals(-process.returncode).name} at most {SECONDS:.0f} s after its start"
        )
    return verdict(text, process.returncode)


def verdict(text: str, status: int) -> str:
    """Return what the sanitizer's output says, or raise as `check` does."""
    reached = "the program came to its end" in text
    summary = re.search(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+) .*", text)
    if summary and reached and summary[1] == "0" and status == 0:
        return summary[0]
    for line in text.splitlines():
        if not reached and any(words in line for words in REFUSALS):
            raise NotHere(f"refused: {line.strip('= ')}")
    first = next((line.strip("= ") for line in text.splitlines() if "=========" in line and "Invalid" in line), "")
    raise RuntimeError(f"{summary[0] if summary else 'no summary'}, exit status {status} {first}".strip())
