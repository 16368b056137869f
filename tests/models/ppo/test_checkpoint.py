"""Files that are damaged, foreign or hostile: an error that says so, and the checkpoint before is taken."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import operant_gpu
from operant_gpu import CheckpointError, InvalidConfig
from operant_gpu.archives import archived
from operant_gpu.files import as_path, make_whole, remove_partials, try_to_write, write_whole
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import Run, RunReader

pytestmark = pytest.mark.quick

CONFIG = PPOConfig(n_steps=8, batch_size=32, hidden_sizes=(8,), checkpoint_interval=1)
OLDER, NEWEST = "step-000000000256.pt", "step-000000000384.pt"


def make(**changes: Any) -> PPO:
    return PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), replace(CONFIG, **changes))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    learner = make()
    learner.keep_checkpoints(folder)
    learner.learn(384)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A folder of three checkpoints."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def assert_the_one_before_is_taken(folder: Path, reason: str) -> None:
    with pytest.raises(CheckpointError, match=f"{NEWEST}.*{reason}"):
        PPO.load(folder / NEWEST)
    with pytest.warns(RuntimeWarning, match=f"{NEWEST}.*Taken instead: {OLDER}"):
        learner = PPO.load(folder)
    assert learner.timesteps == 256


# Over the whole file: headers, numbers, the archive's directory, the digest.
@pytest.mark.parametrize("place", [*(place / 40 for place in range(40)), -1, -2, -33, -34])
def test_one_bit_that_flips_is_noticed(place: float, folder: Path) -> None:
    content = bytearray((folder / NEWEST).read_bytes())
    content[int(place * len(content)) if place >= 0 else int(place)] ^= 1 << 3
    (folder / NEWEST).write_bytes(content)
    assert_the_one_before_is_taken(folder, "is damaged|is not a checkpoint")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.9, 0.999, 0.99999])
def test_a_file_that_is_cut_short_is_noticed(share: float, folder: Path) -> None:
    os.truncate(folder / NEWEST, int(share * (folder / NEWEST).stat().st_size))
    assert_the_one_before_is_taken(folder, "is damaged|is not a checkpoint")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


@pytest.mark.parametrize("kind", ["pickle", "torch", "signed"])
def test_code_in_a_file_is_never_run(kind: str, folder: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    content = {**torch.load(folder / NEWEST, weights_only=True), "network": Trap(sprung)}
    if kind == "pickle":
        (folder / NEWEST).write_bytes(pickle.dumps(content))
    elif kind == "torch":
        torch.save(content, folder / NEWEST)
    else:
        (folder / NEWEST).write_bytes(archived(content))
    reasons = {"pickle": "is not a checkpoint", "torch": "its digest", "signed": "holds more than tensors and numbers"}
    assert_the_one_before_is_taken(folder, reasons[kind])
    assert not sprung.exists()
    # It is a trap.
    torch.load(folder / NEWEST, weights_only=False) if kind != "pickle" else pickle.loads(
        (folder / NEWEST).read_bytes()
    )
    assert sprung.exists()


def test_a_file_of_another_format_says_which(folder: Path) -> None:
    content = {**torch.load(folder / NEWEST, weights_only=True), "format": 99}
    (folder / NEWEST).write_bytes(archived(content))
    assert_the_one_before_is_taken(folder, "has format 99, this version reads formats 3 and 4")
    (folder / NEWEST).write_bytes(archived([1, 2]))
    assert_the_one_before_is_taken(folder, "has format 'list'")


def test_a_file_whose_tensors_do_not_fit_is_refused(folder: Path) -> None:
    content = torch.load(folder / NEWEST, weights_only=True)
    content["environments"]["state"]["theta"] = torch.zeros(3)
    (folder / NEWEST).write_bytes(archived(content))
    with pytest.raises(InvalidConfig, match="does not fit"):
        PPO.load(folder)


def test_where_no_checkpoint_can_be_read_all_reasons_are_given(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"no checkpoint in .* can be read: .*{NEWEST}.*; .*{OLDER}"):
        PPO.load(folder)
    with pytest.raises(InvalidConfig, match="there are no checkpoints"):
        PPO.load(folder.parent)


def test_what_a_kill_has_left_is_not_read_and_is_removed(folder: Path) -> None:
    half = folder / ".step-000000000512.pt.0123abcd.partial"
    half.write_bytes((folder / NEWEST).read_bytes()[:1000])
    learner = PPO.load(folder)
    assert learner.timesteps == 384
    learner.keep_checkpoints(folder)
    assert not half.exists()


def test_pytorch_alone_can_read_a_checkpoint(folder: Path) -> None:
    content = torch.load(folder / NEWEST, weights_only=True)
    torch.testing.assert_close(content["policy"], dict(PPO.load(folder).policy.state_dict()), rtol=0, atol=0)


def test_a_policy_goes_on_in_fewer_environments(folder: Path) -> None:
    env = operant_gpu.make("CartPole-v1", 2, device="cpu")
    learner = PPO.load(folder, env)
    assert learner.config == replace(CONFIG, batch_size=16)
    assert learner.learn(32).timesteps == 384 + 32
    with pytest.raises(InvalidConfig, match=r"^batch_size: 32 is more than the 8 x 2 = 16 steps"):
        PPO.load(folder, env, config=CONFIG)


def test_what_is_no_environment_is_refused_by_name(folder: Path) -> None:
    for wrong in ("CartPole-v1", 5, operant_gpu.VecEnv):
        with pytest.raises(InvalidConfig, match=r"^env: expected a VecEnv"):
            PPO.load(folder, wrong)


def test_a_default_batch_size_is_saved_as_it_was_resolved(tmp_path: Path) -> None:
    learner = PPO(operant_gpu.make("CartPole-v1", 4, device="cpu"), PPOConfig(n_steps=8, hidden_sizes=(8,)))
    assert learner.config.batch_size == 32
    learner.learn(32).save(tmp_path / "learner.pt")
    assert torch.load(tmp_path / "learner.pt", weights_only=True)["config"]["batch_size"] == 32
    assert PPO.load(tmp_path / "learner.pt").config == learner.config


def test_a_checkpoint_can_be_moved_to_where_its_engine_is_not(folder: Path) -> None:
    content = torch.load(folder / NEWEST, weights_only=True)
    content["config"]["engine"] = "graph"
    content["generators"]["device"] = "cuda"
    (folder / NEWEST).write_bytes(archived(content))
    learner = PPO.load(folder, device="cpu")
    assert learner.config.engine == "auto"
    assert learner.resume(640).timesteps == 640


def test_writing_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_whole(target, "before")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        make_whole(target, fail)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    write_whole(target, b"after")
    assert target.read_text() == "after"


def test_files_have_the_permissions_that_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    sizes, target = set(), tmp_path / "file"
    write_whole(target, "x" * 1_000_000)
    # In the moment before the new name, the old content is what is there.
    make_whole(target, lambda partial: (partial.write_text("y" * 500_000), sizes.add(target.stat().st_size)))
    assert sizes == {1_000_000}
    assert target.stat().st_size == 500_000
    (tmp_path / ".file.1.partial").touch()
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_trying_to_write_leaves_nothing_where_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the process ended before it could remove what it made.
    for remove in ("unlink", "remove"):
        monkeypatch.setattr(os, remove, lambda *_, **__: None)
    try_to_write(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("path", [None, 5, "", "a\0b", b"bytes"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    learner = make()
    for use in (PPO.load, learner.save, PPOConfig.from_toml, CONFIG.to_toml):
        with pytest.raises(InvalidConfig, match="expected a path, got"):
            use(path)
    if path is not None:
        with pytest.raises(InvalidConfig, match="expected a path, got"):
            learner.keep_checkpoints(path)


def test_paths_may_begin_with_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    learner = make(checkpoint_dir="~/kept")
    learner.learn(512)
    learner.save("~/x.pt")
    learner.config.to_toml("~/x.toml")
    assert PPOConfig.from_toml("~/x.toml") == learner.config
    assert PPO.load("~/x.pt").timesteps == PPO.load("~/kept").timesteps == 512
    with Run(learner, "~/run") as run:
        pass
    assert run.view.folder == str(RunReader("~/run").folder) == str(tmp_path / "run")
    assert as_path("x", "here/~/x") == Path("here/~/x")
    assert {"kept", "x.pt", "x.toml", "run"} <= {path.name for path in tmp_path.iterdir()}
    assert not Path("~").exists()


def test_a_home_folder_that_is_nobodys_is_refused() -> None:
    message = r"'~nobody_such_user/x' begins with '~nobody_such_user', .* write './~nobody_such_user/x'"
    with pytest.raises(InvalidConfig, match=message):
        PPO.load("~nobody_such_user/x")


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": {"lr": 1e-3, "unknown": 1}},
        {"params": None},
        {"progress": {"timesteps": "many"}},
        {"generators": {"device": "cpu", "learner": 5, "own": 5}},
        {"environments": {}},
        {"telemetry": {"sums": None}},
        {"optimizer": {"lr": None}},
        {"policy": {}},
    ],
)
def test_what_does_not_hold_together_is_one_clear_line(change: dict[str, Any], folder: Path) -> None:
    content = {**torch.load(folder / NEWEST, weights_only=True), **change}
    (folder / NEWEST).write_bytes(archived(content))
    with pytest.raises((CheckpointError, InvalidConfig), match=NEWEST) as caught:
        PPO.load(folder / NEWEST)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_an_environment_that_is_unknown_here_says_what_to_do(folder: Path) -> None:
    content = {**torch.load(folder / NEWEST, weights_only=True), "env": "Mine-v0"}
    (folder / NEWEST).write_bytes(archived(content))
    with pytest.raises(InvalidConfig, match=r"of 'Mine-v0', which is not registered: import .* FILE\.py:NAME"):
        PPO.load(folder / NEWEST)


def test_links_stay_links_and_devices_devices(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.pt").symlink_to(tmp_path / "real" / "policy.pt")
    make().save(tmp_path / "link.pt")
    assert (tmp_path / "link.pt").is_symlink()
    assert PPO.load(tmp_path / "real" / "policy.pt").timesteps == 0
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is there and no regular file"):
        make().save(tmp_path / "pipe")
    with pytest.raises(InvalidConfig, match="there is no file"):
        PPO.load(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_among_the_checkpoints_is_left_alone(folder: Path) -> None:
    (folder / "step-000000000001.pt").mkdir()
    learner = PPO.load(folder)
    learner.keep_checkpoints(folder)
    assert learner.resume(640).timesteps == 640
    assert (folder / "step-000000000001.pt").is_dir()


class Before(NamedTuple):
    """A training of the release before, at half of its 1,024 steps, and what became of it there."""

    lr: Any
    actions: list[float]
    returns: list[float]
    rates: list[float]
    sum_of_weights: float


FORMAT_3 = {
    "pendulum": Before(
        (3e-3, 0.0),
        [
            -0.143136978,
            4.36091796e-05,
            -0.0831591636,
            0.0672579631,
            -0.121807992,
            0.166562021,
            -0.137001857,
            -0.130113617,
        ],
        [-1300.37398, -800.986564, -1069.90642, -878.42525],
        [0.0015, 0.001125, 0.00075, 0.000375],
        -3.28757502,
    ),
    "cartpole": Before(2e-3, [0] * 8, [16, 11, 13, 15], [2e-3] * 4, -2.89923177),
}


@pytest.mark.parametrize("name", FORMAT_3)
def test_what_the_release_before_has_written_plays_and_learns_on_as_there(name: str) -> None:
    """Its learning rate fell by a setting of its own, and its policies drew in the environment's units."""
    path, before = Path(__file__).parent / "checkpoints" / f"{name}-format-3.pt", FORMAT_3[name]
    learner = PPO.load(path, device="cpu")
    assert (learner.config.lr, learner.timesteps, learner.target) == (before.lr, 512, 1024)
    assert not learner.config.scale_actions
    # Settings of one's own know nothing of it; where actions are discrete, it means nothing.
    own = replace(learner.config, scale_actions=True)
    if name == "cartpole":
        assert PPO.load(path, config=own, device="cpu").timesteps == 512
    else:
        with pytest.raises(InvalidConfig, match=r"^scale_actions: .* got True: set scale_actions=False"):
            PPO.load(path, config=own, device="cpu")
    actions = learner.controller()(learner.env.observe())
    assert actions.flatten().tolist() == pytest.approx(before.actions, rel=1e-3, abs=1e-5)
    assert operant_gpu.models.evaluate(learner, 4).returns.tolist() == pytest.approx(before.returns, rel=1e-2)
    rates: list[float] = []
    learner.resume(callback=lambda metrics: rates.append(metrics["lr"]))
    assert rates == pytest.approx(before.rates)
    weights = sum(float(parameter.detach().sum()) for parameter in learner.policy.parameters())
    assert weights == pytest.approx(before.sum_of_weights, abs=1e-2)
