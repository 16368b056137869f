"""Step, roll out and learn above a driver that does nothing; print how many kernels were compiled for that."""

from __future__ import annotations

import contextlib
import json
import sys

import nothing_driver

import operant_gpu
from operant_gpu.backends import compilations
from operant_gpu.backends.triton import update
from operant_gpu.errors import TrainingError
from operant_gpu.models import PPO, PPOConfig

if __name__ == "__main__":
    nothing_driver.install(int(sys.argv[1]))
    update._programs_at_once = lambda device, fit: 264
    env = operant_gpu.make("CartPole-v1", 1024, device="cpu", backend="triton")
    env.compile(lambda env: env.rollout(2))
    config = PPOConfig.for_env("CartPole-v1", size="large")
    with contextlib.suppress(TrainingError):
        PPO(env, config).learn(config.n_steps * env.num_envs)
    print(json.dumps(compilations.count()))
