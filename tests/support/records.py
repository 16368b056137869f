"""What tests of runs and displays share: the metrics of one reading."""

from __future__ import annotations

RECORD = {
    "timesteps": 2_500.0,
    "iterations": 5.0,
    "episodes": 120.0,
    "episodic_return": 48.25,
    "episodic_length": 48.0,
    "policy_loss": -0.0123,
    "value_loss": 3.5,
    "entropy": 0.61,
    "explained_variance": 0.97,
    "approx_kl": 0.004,
    "clip_frac": 0.05,
    "grad_norm": 0.4,
    "lr": 1e-3,
    "seconds": 2.0,
    "sps": 1_000.0,
    "env_sps": 4_000.0,
    "learner_sps": 2_000.0,
}
