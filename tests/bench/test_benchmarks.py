"""Benchmarks work at the smallest sizes, and the pages in the repository are what its raw data says."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from here import ROOT
from PIL import Image

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.presets import LARGE_PRESETS, LEVELS, PRESETS

RESULTS, MACHINE = ROOT / "bench" / "results", "intel-r-xeon-r-processor"
WRITERS = {
    MACHINE: lambda bench, report: bench("env_page").page_of(report),
    f"games-{MACHINE}": lambda bench, report: bench("games_throughput").page_of(report),
    "randomization": lambda bench, report: bench("randomization").section(report),
}
PARTS = {
    "fused": ["rollout", "gradient steps", "advantages", "metrics and faults"],
    "eager": [
        *("environment steps", "policy acts", "advantages", "forward and losses", "backward"),
        *("gradient norms and Adam", "metrics and faults"),
    ],
}


@pytest.mark.parametrize("name", WRITERS)
def test_pages_are_what_the_raw_data_says(bench: Any, name: str) -> None:
    report = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == WRITERS[name](bench, report)


def test_the_page_of_results_is_what_the_raw_data_says(bench: Any) -> None:
    report = json.loads((RESULTS / f"learning-{MACHINE}.json").read_text())
    run, link = bench("learning_run").Run, f"../bench/results/learning-{MACHINE}.json"
    runs = {env: [run(**one) for one in entry["runs"]] for env, entry in report["environments"].items()}
    page, levels = bench("learning_page"), json.loads(bench("levels").DATA.read_text())
    written = "\n\n".join(page.sections(report, levels, runs, link)) + "\n"
    assert (ROOT / "docs" / "results.md").read_text() == written
    for mark, text in page.tables_of_games(levels).items():
        assert bench("page").between(mark, text) in (ROOT / "docs" / "games.md").read_text()


def test_the_page_of_trainers_is_what_the_raw_data_says(bench: Any) -> None:
    adapters, report = bench("adapters"), json.loads((RESULTS / "adapters.json").read_text())
    assert adapters.PAGE.read_text() == adapters.page_of(report)
    assert all(run["solved"] for run in report["runs"])


def test_the_table_of_large_presets_is_what_the_raw_data_says(bench: Any) -> None:
    large, preset_of = bench("large_presets"), bench("learning_run").preset_of
    report = json.loads(large.DATA.read_text())
    assert bench("page").between("large", large.table_of(report)) in large.PAGE.read_text()
    for env, entry in report["environments"].items():
        assert {run["outcome"] for run in entry["runs"]} == {"solved"}
        # As JSON has tuples.
        assert json.loads(json.dumps(preset_of(PPOConfig.for_env(env, size="large")))) == entry["preset"]
    assert list(report["environments"]) == list(LARGE_PRESETS)


def test_presets_say_what_has_been_measured(bench: Any) -> None:
    levels, runner = bench("levels"), bench("learning_run")
    report = json.loads(levels.DATA.read_text())
    assert levels.presets_of(report) == LEVELS
    assert LEVELS.keys() == PRESETS.keys()
    assert bench("page").between("usual", levels.presets_table(report)) in levels.PAGE.read_text()
    assert all(f"{env}: {level}" in (PPOConfig.for_env.__doc__ or "") for env, level in LEVELS.items())
    assert (PPOConfig.for_env.__doc__ or "").count(" seeds\n") == len(LEVELS)
    for target in levels.measured(report, bench("published").TARGETS):
        config = runner.config_of(levels.job_of(target, 0, levels.Settings()))
        now = json.loads(json.dumps(runner.preset_of(config)))
        assert all(run["preset"] == now for run in report["trainings"][target.key]["runs"])


def test_a_level_is_measured_and_compared(bench: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    levels, published, runner = bench("levels"), bench("published"), bench("learning_run")
    target, page = published.Target("GridWalk-v0", 4096), tmp_path / "settings.md"
    page.write_text("<!-- usual:begin -->\n<!-- usual:end -->\n")
    source, config = tmp_path / "presets.py", tmp_path / "config.py"
    source.write_text('LEVELS = {\n    "Old-v0": Level(1, 2.0),\n    "Older-v0": Level(1, 2.0),\n}\n')
    config.write_text("    Levels:\n\n        - Old-v0: 2.0\n\n    More.\n")
    data, presets = tmp_path / "levels.json", {"GridWalk-v0": levels.presets.Level(4096, 0.5, 0.25, 1.0, 2)}
    places = {"DATA": data, "PAGE": page, "PRESETS": source, "CONFIG": config, "RUNS": tmp_path / "runs"}
    for name, value in {**places, "TARGETS": (target,), "EPISODES_PLAYED": 64, "presets_of": lambda _: presets}.items():
        monkeypatch.setattr(levels, name, value)
    settings = levels.Settings(("GridWalk-v0",), seeds=2, processes=1)
    with pytest.raises(SystemExit, match=r"^--check: there is none of these on record: $"):
        levels.main(dataclasses.replace(settings, seeds=None, check=1))
    # An earlier attempt was cut off when two seeds had ended, one of them with another preset.
    earlier = runner.train(levels.job_of(target, 0, settings))
    stored = levels.job_of(target, 0, settings).json
    stored.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(earlier, seconds=1e6))))
    other = dataclasses.replace(earlier, seed=1, seconds=1e6, preset={})
    levels.job_of(target, 1, settings).json.write_text(json.dumps(dataclasses.asdict(other)))
    assert levels.main(settings) == 0
    assert not list(stored.parent.iterdir())
    report = json.loads(data.read_text())
    runs = report["trainings"]["GridWalk-v0, 0 M"]["runs"]
    assert [(run["seed"], run["timesteps"], run["seconds"] == 1e6) for run in runs] == [
        (0, 4096, True),
        (1, 4096, False),
    ]
    assert source.read_text() == 'LEVELS = {\n    "GridWalk-v0": Level(4_096, 0.5, 0.25, 1.0, 2),\n}\n'
    assert (
        config.read_text()
        == "    Levels:\n\n        - GridWalk-v0: 0.500 ± 0.250 after 0 M steps and 1 s, over 2 seeds\n\n    More.\n"
    )
    assert "| GridWalk-v0 | 4,096 | 0.500 ± 0.250 | 2 | 1.0 |" in page.read_text()
    settings = dataclasses.replace(settings, seeds=None)
    assert levels.main(dataclasses.replace(settings, check=1)) == 0
    # The same seed learns the same.
    same = f"{runs[1]['evaluation']:.5g}"
    assert f"seed 1: {same} ({same} on record), expected" in capsys.readouterr().out
    for run in runs:
        run["evaluation"] = 5.0 + run["seed"] / 100
    data.write_text(json.dumps(report))
    assert levels.main(dataclasses.replace(settings, check=1)) == 1
    assert "NOT as expected" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="at least 2"):
        levels.main(dataclasses.replace(settings, seeds=1))
    data.write_text(json.dumps({"trainings": {target.key: {"runs": runs * 2}}}))
    with pytest.raises(SystemExit, match=r"--seeds: expected at least 4, as many as GridWalk-v0, 0 M has .*, got 2;"):
        levels.main(dataclasses.replace(settings, seeds=2))
    with pytest.raises(SystemExit, match="no such training of no environment; trainings: "):
        levels.main(dataclasses.replace(settings, envs=()))
    with pytest.raises(SystemExit, match="not with --check"):
        levels.main(dataclasses.replace(settings, seeds=2, check=1))
    with pytest.raises(SystemExit, match="no such training of GridWalk; trainings: GridWalk-v0, 0 M"):
        levels.main(dataclasses.replace(settings, envs=("GridWalk-v0", "GridWalk")))


def test_the_rules_of_gymnax_cut_episodes_but_those_of_freeway(bench: Any) -> None:
    runner = bench("learning_run")
    given = {game: runner.given_by(runner.Job(f"MinAtar-{game}-v1", rules="gymnax")) for game in ("Asterix", "Freeway")}
    assert given["Asterix"] == {"sticky_action_prob": 0.0, "max_episode_steps": 1000}
    assert given["Freeway"] == {"sticky_action_prob": 0.0}
    assert runner.given_by(runner.Job("MinAtar-Asterix-v1")) == {}


def test_steps_or_rules_choose_among_all_environments(bench: Any) -> None:
    levels = bench("levels")
    by_rules = levels.wanted(levels.Settings(rules=("gymnax",)))
    assert {target.rules for target in by_rules} == {"gymnax"}
    assert {target.env for target in by_rules} >= {"MinAtar-Asterix-v1", "MinAtar-Breakout-v1"}
    assert {target.env for target in levels.wanted(levels.Settings(steps=300_000))} == {"Pendulum-v1", "GridWalk-v0"}
    with pytest.raises(SystemExit, match="no such training of "):
        levels.wanted(levels.Settings(steps=1))


@pytest.mark.parametrize(("found", "expected"), [(-4.0, False), (-2.3, True), (6.3, True), (8.0, False)])
def test_where_a_new_seed_is_expected(bench: Any, found: float, expected: bool) -> None:
    """Of 1, 2 and 3: mean 2, deviation 1, and 4.303 times the root of 4/3 about it, which is -2.97 to 6.97."""
    run = bench("learning_run").Run("operant_gpu", "x", 9, evaluation=found)
    training = {"runs": [{"seed": seed, "evaluation": seed + 1.0} for seed in range(3)]}
    assert bench("levels").is_expected(run, training, "x") is expected


def test_published_figures_took_no_more_steps_or_are_of_pgx_at_twice_ours(bench: Any) -> None:
    best: dict[tuple[str, str], float] = {}
    for target in sorted(bench("published").TARGETS, key=lambda target: target.at or target.steps):
        for figure in filter(None, (target.ppo, target.other)):
            # At ours pgx's curves are still low.
            assert figure.steps <= (target.at or target.steps) * (1 + (figure.source == "pgx")), target
        # What took fewer steps counts too.
        if target.best is not None:
            game = target.env, target.rules
            assert target.best >= best.get(game, -math.inf), target
            best[game] = target.best


def test_rows_below_the_published_are_named_and_so_are_those_that_scatter_too_much_to_tell(bench: Any) -> None:
    page, published = bench("learning_page"), bench("published")
    figure = published.Figure(10.0, "zoo", "PPO", 1_000_000)
    targets = [published.Target(env, 1_000_000, ppo=figure) for env in ("above", "below", "scattered")]
    targets.append(published.Target("alone", 1_000_000))
    plays = {"above": (11.0, 11.1), "below": (9.0, 9.1), "scattered": (9.0, 12.0), "alone": (1.0, 2.0)}
    trainings = {one.key: {"runs": [{"evaluation": value} for value in plays[one.env]]} for one in targets}
    said = page.below({"trainings": trainings}, targets)
    assert said == (
        "The mean of ours is as high or higher in 2 of 3 rows with such a figure; not in below, 1 M.\n"
        "The 95 % interval begins below the figure, so ours may not be better, in scattered, 1 M."
    )


def test_a_level_is_read_off_a_curve(bench: Any) -> None:
    curve = {"timesteps": [10, 20, 30], "mean_return": [1.0, 2.0, 3.0]}
    assert [bench("levels").at(curve, steps) for steps in (5, 10, 29, 30, 99)] == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_every_preset_has_a_level_to_be_measured(bench: Any) -> None:
    there = {(target.env, target.steps) for target in bench("published").TARGETS}
    missing = [env for env in PRESETS if (env, PPOConfig.for_env(env).total_timesteps) not in there]
    assert missing == []


@pytest.mark.parametrize("name", ["FrozenLake-v1", "FrozenLake8x8-v1"])
def test_the_best_walkers_of_the_lakes(bench: Any, name: str) -> None:
    """By backward induction: the chance to arrive of a walker who knows how many steps are left."""
    spec, moves_of = gymnasium.spec(name), gymnasium.make(name).unwrapped.P  # type: ignore[attr-defined]
    values = [0.0] * len(moves_of)
    for _ in range(spec.max_episode_steps or 0):
        values = [
            max(
                sum(chance * (reward + (0.0 if over else values[place])) for chance, place, reward, over in moves)
                for moves in moves_of[state].values()
            )
            for state in moves_of
        ]
    (ceiling,) = (target.ceiling for target in bench("published").TARGETS if target.env == name)
    assert ceiling == pytest.approx(values[0], abs=5e-5)


def test_settings_are_tried(bench: Any, tmp_path: Path, capsys: Any) -> None:
    tune = bench("tune")
    assert list(tune.alternatives("n_epochs=1|2; lr=[1e-3, 0.0]; gamma = 0.9 | 1.0"))[1:3] == [
        {"n_epochs": 1, "lr": [1e-3, 0.0], "gamma": 1.0},
        {"n_epochs": 2, "lr": [1e-3, 0.0], "gamma": 0.9},
    ]
    with pytest.raises(SystemExit, match=r"^--try: expected .* in JSON, got ' lr=high'$"):
        list(tune.alternatives("n_epochs=1; lr=high"))
    data = tmp_path / "tries.json"
    settings = tune.Settings("GridWalk-v0", ("", "gamma=0.5"), 2, 2048, episodes=16, processes=1, json=data)
    tune.main(settings)
    assert len(json.loads(data.read_text())["runs"]) == 4
    capsys.readouterr()
    tune.main(settings)
    printed = capsys.readouterr().out
    # They are not done again.
    assert "seed" not in printed.split("| changes")[0]
    assert printed.count("| 2 |") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--seeds 0", "--seeds: expected at least 1, got 0"),
        ("--episodes 0", "--episodes: expected at least 1, got 0"),
        ("--processes 0", "--processes: expected at least 1, got 0"),
        ("--try gama=0.9", "gama: unknown setting of PPO; did you mean 'gamma'?"),
        ("--try seed=3", "changes to the preset: expected JSON"),
        ("--steps 0", "total_timesteps: expected"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(
    bench: Any, monkeypatch: pytest.MonkeyPatch, options: str, said: str
) -> None:
    tune = bench("tune")
    monkeypatch.setattr("sys.argv", ["tune.py", "--env", "GridWalk-v0", *options.split()])
    with pytest.raises(SystemExit) as refusal:
        bench("machine").command(tune.main, tune.Settings)
    assert str(refusal.value).startswith(said)


def test_the_best_try_comes_first_and_one_that_failed_last(bench: Any) -> None:
    tune, run = bench("tune"), bench("learning_run").Run
    # After the first point the mean is of too few episodes.
    curve = {
        "timesteps": [1, 2, 3],
        "seconds": [0.1, 0.2, 0.3],
        "episodes": [9, 100, 200],
        "mean_return": [2, 1.0, 1.5],
    }
    good, bad = run("operant_gpu", "x", 0, evaluation=2.0, curve=curve), run("operant_gpu", "x", 0, evaluation=1.0)
    rows = tune.table_of([("b", bad), ("c", run("operant_gpu", "x", 0, "failed")), ("a", good)], 1.0).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| a", "| b", "| c"]
    assert "| 2 | 0.20 |" in rows[2]
    assert "| inf | inf |" in rows[3]


def test_the_prototype_of_pqn_has_the_right_targets(bench: Any) -> None:
    pqn = bench("pqn")
    steps = 60
    settings = pqn.Settings(num_envs=4, n_steps=steps, lambda_=0.7, gamma=0.9)
    torch.manual_seed(0)
    env = operant_gpu.make("MinAtar-Breakout-v1", 4, device="cpu")
    network = pqn.network_of(env, settings)
    obs, _ = env.reset(seed=0)
    twin = operant_gpu.make("MinAtar-Breakout-v1", 4, device="cpu")
    twin.reset(seed=0)
    seen, acted, targets, last = pqn.collect(env, network, obs, 0.3, deque(maxlen=100), settings)
    rewards, ended = [], []
    for step in range(steps):
        _, reward, terminated, *_ = twin.step(acted[4 * step : 4 * step + 4])
        rewards.append(reward.clone())
        ended.append(terminated.clone())
    best = network(torch.cat([seen, last]).float()).amax(1).detach().reshape(steps + 1, 4)
    assert torch.stack(rewards).any()
    assert torch.stack(ended[:-1]).any()
    for lane in range(4):
        # The mean over returns of all lengths, each weighted by lambda to the power of its length.
        for step in range(steps):
            returns, discounted = [], 0.0
            for ahead in range(step, steps):
                discounted += 0.9 ** (ahead - step) * float(rewards[ahead][lane])
                over = bool(ended[ahead][lane])
                rest = 0.0 if over else 0.9 ** (ahead + 1 - step) * float(best[ahead + 1][lane])
                returns.append(discounted + rest)
                if over:
                    break
            weights = [0.3 * 0.7**power for power in range(len(returns) - 1)] + [0.7 ** (len(returns) - 1)]
            expected = sum(weight * value for weight, value in zip(weights, returns, strict=True))
            assert float(targets.reshape(steps, 4)[step, lane]) == pytest.approx(expected, abs=1e-5)


def test_looking_ahead_sees_a_reward_that_is_one_step_away(bench: Any) -> None:
    lookahead, env = bench("lookahead"), operant_gpu.make("GridWalk-v0", 256, device="cpu", autoreset_mode="disabled")
    learner = PPO(operant_gpu.make("GridWalk-v0", 4, device="cpu"), PPOConfig(num_envs=4))
    env.reset(seed=0)
    x, y, goal_x, goal_y = (column.long() for column in env.state[:4])
    beside = (x - goal_x).abs() + (y - goal_y).abs() == 1
    chosen = lookahead.Lookahead(learner, "GridWalk-v0", 256, samples=2, steps=1)(env)
    _, _, terminated, *_ = env.step(chosen)
    assert 3 < int(beside.sum()) < 100
    assert terminated[beside].all()


def test_looking_ahead_adds_rewards_and_what_the_critic_expects_of_the_rest_and_keeps_to_the_mask(bench: Any) -> None:
    lookahead, games = bench("lookahead"), 1024
    config = PPOConfig(num_envs=8, n_steps=16, total_timesteps=256, gamma=0.9, normalize_rewards=True, cnn_channels=())
    learner = PPO(operant_gpu.make("Game2048-v0", 8, device="cpu"), config)
    learner.learn()
    assert learner.reward_normalizer is not None
    env = operant_gpu.make("Game2048-v0", games, device="cpu", autoreset_mode="disabled")
    env.reset(seed=1)
    for _ in range(20):
        env.step(env.action_mask.to(torch.int32).argmax(1))
    mask = env.action_mask.clone()
    chosen = lookahead.Lookahead(learner, "Game2048-v0", games, samples=1, steps=0)(env)
    # The copies' draws: lane by lane, an action each.
    copies = operant_gpu.make("Game2048-v0", 4 * games, device="cpu", autoreset_mode="disabled")
    copies.restore(env.snapshot(torch.arange(games).repeat_interleave(4)), new_streams=True)
    obs, reward, terminated, *_ = copies.step(torch.arange(4).repeat(games))
    with torch.no_grad():
        rest = learner.policy.value(obs, None, None) / learner.reward_normalizer.scale
    worth = (reward + 0.9 * rest * ~terminated).reshape(games, 4)
    assert not mask.all()
    assert torch.equal(chosen, worth.masked_fill(~mask, -torch.inf).argmax(1))


def test_searches_and_hard_starts_are_measured_and_shown(
    bench: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    searching, data, game = bench("searching"), tmp_path / "search.json", "MinAtar-Breakout-v1"
    settings = searching.Settings((game,), seeds=2, trainings=0, rows=64, steps=30, images=tmp_path, json=data)
    searching.main(settings)
    report = json.loads(data.read_text())
    entry = report["search"][game]
    assert [run["seed"] for run in entry["runs"]] == [0, 1]
    assert all(run["best"] >= run["random_best"] > 0 for run in entry["runs"])
    with Image.open(tmp_path / "search-breakout.png") as picture:
        assert picture.size == (240, 240)
    alike = {"seed": 0, "random_mean": 0.25, "random_best": 5.0, "best": 40.0, "length": 1000, "seconds": 2.0}
    entry = {"rows": 4096, "steps": 1000, "runs": [alike, alike | {"best": 44.0, "random_best": 7.0, "length": 500}]}
    starts = [{"seed": seed, "with": 1.1, "without": 0.5 + seed / 10} for seed in range(3)]
    data.write_text(json.dumps({"search": {game: entry}, "hard_starts": {"Bridge-v0": {"runs": starts}}}))
    capsys.readouterr()
    searching.main(dataclasses.replace(settings, table=True))
    printed = capsys.readouterr().out
    # 1.54 M steps a second are 4,096 times 1,500 in 4 s. Half of the interval: 4.303 times 0.1, by the root of 3.
    assert f"| `{game}` | 0.2 | 7 | 40, 44 | 2.0 | 1.54 | {searching.LEVELS[game].mean_return:.1f} ± " in printed
    assert "| `Bridge-v0` | with | 1.1 ± 0.0 | 1.10, 1.10, 1.10 |" in printed
    assert "| `Bridge-v0` | without | 0.600 ± 0.248 | 0.50, 0.60, 0.70 |" in printed
    assert "| `Bridge-v0` | difference | 0.500 ± 0.248 | 0.60, 0.50, 0.40 |" in printed
    monkeypatch.setattr(searching, "STARTS", {"FrozenLake-v1": 3_000})
    searching.main(dataclasses.replace(settings, games=(), trainings=2))
    report = json.loads(data.read_text())
    assert [run["seed"] for run in report["hard_starts"]["FrozenLake-v1"]["runs"]] == [0, 1]
    assert report["search"] == {game: entry}
    with pytest.raises(SystemExit, match="--seeds: expected at least 1, got 0"):
        searching.main(dataclasses.replace(settings, seeds=0))


def test_a_prototype_learns_plays_and_is_written(bench: Any, tmp_path: Path) -> None:
    pqn, data = bench("pqn"), tmp_path / "pqn.json"
    pqn.main(pqn.Settings("MinAtar-Breakout-v1", steps=3 * 8 * 16, num_envs=16, n_steps=8, episodes=4, json=data))
    (run,) = json.loads(data.read_text())["runs"]
    assert run["curve"]["timesteps"][-1] == 384
    assert run["evaluation"] >= 0
    assert "`MinAtar-Breakout-v1` | 0 M |" in pqn.table_of([run, run], lambda env, steps: (f"{env} after {steps}", ""))
    with pytest.raises(SystemExit, match="masks some"):
        pqn.main(pqn.Settings("Game2048-v0"))


@pytest.mark.parametrize("engine", PARTS)
def test_the_time_of_an_iteration_is_split(bench: Any, engine: str) -> None:
    ppo = bench("ppo_throughput")
    learner = ppo.learner_of(ppo.Settings(), 16, engine=engine)
    split = ppo.split(learner, iterations=1)
    assert list(split) == [*PARTS[engine], ppo.REST]
    assert min(split.values()) > 0


def test_a_job_runs_in_a_process(bench: Any, tmp_path: Path) -> None:
    runner, policy = bench("learning_run"), tmp_path / "policies" / "one.pt"
    run = runner.in_process(runner.Job(seed=1, goal=math.inf, cap=math.inf, steps=4096, episodes=2, policy=policy))
    assert (run.outcome, run.seed, run.timesteps, run.curve["timesteps"][-1]) == ("out of steps", 1, 4096, 4096)
    assert run.process_seconds > run.construction_seconds + run.seconds > run.seconds > 0
    assert run.evaluation > 1
    assert policy.exists()


def test_a_job_that_fails_says_why(bench: Any) -> None:
    runner = bench("learning_run")
    run = runner.in_process(runner.Job("CartPol-v1"))
    assert run.outcome == "failed"
    assert "did you mean 'CartPole-v1'" in run.error


def test_steps_with_a_policy_are_measured_in_both_ways(bench: Any, tmp_path: Path) -> None:
    steps, path = bench("policy_steps"), tmp_path / "steps.json"
    steps.main(steps.Settings(num_envs=(512,), repeats=1, seconds=0.01, json=path))
    rates = json.loads(path.read_text())["sizes"]["512"]
    assert set(rates) == set(bench("front_page").POLICY_WAYS)
    assert all(0 < rate["slowest"] <= rate["per_second"] <= rate["fastest"] for rate in rates.values())


def test_copies_are_measured_beside_a_plain_copy_and_a_step(bench: Any, tmp_path: Path) -> None:
    branching, out = bench("branching"), tmp_path / "branching.json"
    branching.main(branching.Settings(num_envs=300, repeats=1, seconds=0.001, out=out))
    rows = json.loads(out.read_text())["rows"]
    assert {row["what"] for row in rows} == {"step", "branch", "branch, new streams", "copy"}
    # State, and 29 bytes of clock and key.
    assert next(row["bytes"] for row in rows if row["env"] == "CartPole-v1" and row.get("rows") == 64) == 64 * (16 + 29)
    table = branching.table_of({"rows": rows}).splitlines()
    assert len(table) == 2 + 3 * len(branching.NAMES)
    assert table[2].startswith("| CartPole-v1 (numba) | 1 | 45 | ")
