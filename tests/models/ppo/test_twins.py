"""Copies and pickles of learners are twins: they go on alike, and what one does the other does not see."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resumed import HALF, OWN, Interrupted, digest, make

from operant_gpu import InvalidConfig
from operant_gpu.models import PPO

WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda learner: pickle.loads(pickle.dumps(learner)),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def half(variant: str) -> PPO:
    learner = make(variant, Interrupted)
    learner.learn(1280)
    assert learner.iterations == HALF
    return learner


@pytest.mark.quick
@pytest.mark.parametrize("variant", ["fused", "eager", "gru", "normalized", "rnd", "image", "varied", *OWN])
def test_a_copy_goes_on_alike(variant: str) -> None:
    learner = half(variant)
    twin = copy.deepcopy(learner)
    kept = digest(twin, [])
    assert kept == digest(learner, [])
    learner.resume()
    assert digest(twin, []) == kept
    assert digest(twin.resume(), []) == digest(learner, [])


@every_way
def test_every_way_gives_a_twin_of_its_own(way: Callable[[Any], Any]) -> None:
    learner = half("eager")
    twin = way(learner)
    assert twin.env is not learner.env
    assert twin.policy.flat.data_ptr() != learner.policy.flat.data_ptr()
    assert digest(twin.resume(), []) == digest(learner.resume(), [])


def test_a_twin_may_be_made_by_a_callback() -> None:
    learner, twins = make("fused"), list[PPO]()
    learner.learn(512, lambda metrics: twins.append(copy.deepcopy(learner)))
    assert [digest(twin.resume(), []) for twin in twins] == [digest(learner, [])] * len(twins)


def test_the_precision_of_a_policy_is_kept(tmp_path: Path) -> None:
    learner = half("fused")
    learner.policy.precision = "ieee"
    assert copy.deepcopy(learner).policy.precision == "ieee"
    learner.save(tmp_path / "learner.pt")
    assert PPO.load(tmp_path / "learner.pt", device="cpu").policy.precision == "ieee"


def test_what_is_frozen_stays_so_and_draws_go_on(tmp_path: Path) -> None:
    learner = make("eager")
    learner.policy.network.critic.weight.requires_grad_(False)
    obs = torch.zeros(50, 4)
    learner.predict(obs, deterministic=False)
    learner.save(tmp_path / "learner.pt")
    twins = copy.deepcopy(learner), PPO.load(tmp_path / "learner.pt", device="cpu")
    expected = learner.predict(obs, deterministic=False)
    for twin in twins:
        frozen = [name for name, one in twin.policy.named_parameters() if not one.requires_grad]
        assert frozen == ["network.critic.weight"]
        assert torch.equal(twin.predict(obs, deterministic=False), expected)


def test_a_twin_keeps_checkpoints_in_a_folder_of_its_own(tmp_path: Path) -> None:
    learner = make("fused")
    learner.keep_checkpoints(tmp_path / "first")
    learner.learn(256)
    twin = copy.deepcopy(learner)
    twin.learn(256)
    assert PPO.load(tmp_path / "first", device="cpu").timesteps == 256
    with pytest.raises(InvalidConfig, match="has checkpoints of another training"):
        twin.keep_checkpoints(tmp_path / "first")
    twin.keep_checkpoints(None)
    twin.learn(128)
    twin.keep_checkpoints(tmp_path / "second")
    twin.learn(256)
    assert PPO.load(tmp_path / "second", device="cpu").timesteps == 896


def test_no_folder_can_be_asked_for_before_the_first_training(tmp_path: Path) -> None:
    learner = PPO(make("fused").env, replace(make("fused").config, checkpoint_dir=str(tmp_path / "folder")))
    learner.keep_checkpoints(None)
    learner.learn(128)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("way", [copy.deepcopy, WAYS["pickle"]], ids=["deepcopy", "pickle"])
def test_parts_can_be_copied_too(way: Callable[[Any], Any]) -> None:
    learner = half("rnd")
    for part in (learner.policy, learner.intrinsic, learner.optimizer, learner.config, learner.controller()):
        way(part)
    twin = way(learner.intrinsic)
    optimizer = twin._optimizer
    assert all(one is other for one, other in zip(optimizer._parameters, twin.predictor.parameters(), strict=True))
    assert optimizer._means[0].data_ptr() == optimizer.means.data_ptr()
    assert torch.equal(optimizer.means, learner.intrinsic._optimizer.means)
