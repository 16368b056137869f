"""What is said about environments: each of the library has all of it, and others what their module says."""

from __future__ import annotations

import functools
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from here import ROOT
from site_hooks import made_pages

from operant_gpu.cli import main
from operant_gpu.cli.common import environment_id
from operant_gpu.facts import Facts, Item, facts_of, spaces_of
from operant_gpu.models.presets import LEVELS
from operant_gpu.registry import find

IDS = sorted(LEVELS)
DOCUMENTED = '''"""Ball: throw a ball: as high as you can.

No friction.

Two paragraphs,
of two lines.

Observation: Heights are
    from the floor.
    0: height (m), upwards
    1 to 2: what
        is (not) a unit (m/s^2)
Action:
    0: throw (hard) or not
End: Never.
"""
from operant_gpu.envs import {name}
from dataclasses import replace
from operant_gpu.lang import jit
from operant_gpu.envs.{module} import step as other
@jit
def step(state, action, rng, params):
    return other(state, action, rng, params)
Own = replace({name}, id="{id}", step=step, max_episode_steps=None, keys=None)
'''


BEYOND = '"""\n\nObservation:\n  7: beyond\nAction: one\n  900 to 901: such"""'
REVERSED = '"""\n\nObservation:\n  2 to 1: reversed\n  1 to 0: too"""'


def numbers(items: tuple[Item, ...]) -> list[int]:
    return [number for item in items for number in range(item.first, item.last + 1)]


@functools.cache
def known(id: str) -> Facts:
    """Return what is said about an environment of the library."""
    return facts_of(find(id))


def own(folder: Path, text: str, **names: str) -> Facts:
    """Return what is said about the environment that a file defines as `Own`."""
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    path = folder / f"{names['id'].lower().replace('-', '_')}.py"
    path.write_text(text)
    return facts_of(find(environment_id(f"{path}:Own")))


@pytest.mark.quick
@pytest.mark.parametrize("id", IDS)
def test_everything_is_said_about_an_environment_of_the_library(id: str) -> None:
    definition = find(id)
    facts, (observation, action) = known(id), spaces_of(definition)
    assert re.fullmatch(r"[A-Z][^\n]*\.", facts.title)
    assert facts.start.text
    assert facts.reward.text
    assert facts.end.text.count(".") > 1, "what ends it, and its limit"
    if isinstance(observation, spaces.Discrete):
        assert (facts.observation.items, bool(facts.observation.text)) == ((), True)
    else:
        # Numbers of a flat observation, and planes of a board.
        assert numbers(facts.observation.items) == list(range(observation.shape[0]))
        assert all(item.meaning and item.low and item.high for item in facts.observation.items)
    size = action.n if isinstance(action, spaces.Discrete) else len(action.low)
    assert numbers(facts.action.items) == list(range(size))
    assert all(bool(item.low) is isinstance(action, spaces.Box) for item in facts.action.items)
    assert [one.name for one in facts.parameters] == list(definition.params._fields)
    assert all(one.meaning for one in (*facts.parameters, *facts.tables, *facts.metrics))


@pytest.mark.quick
def test_ranges_and_units_are_beside_what_they_belong_to() -> None:
    cartpole, pendulum = known("CartPole-v1"), known("Pendulum-v1")
    item = Item(2, 2, "angle of the pole from upright, positive to the right", "rad", "-0.418879", "0.418879")
    assert cartpole.observation.items[2] == item
    assert cartpole.observation.items[1][-3:] == ("m/s", "-inf", "inf")
    assert pendulum.action.items[0][-3:] == ("N m", "-2.0", "2.0")
    assert {one.name for one in pendulum.parameters if not one.is_free} == {"max_speed", "max_torque"}
    assert known("Game2048-v0").observation.items[0][-2:] == ("0", "1")
    # Its state and reset are MountainCar's: the module is that of its step.
    assert "motor" in known("MountainCarContinuous-v0").title
    assert find("MountainCarContinuous-v0").state is find("MountainCar-v0").state


@pytest.mark.quick
def test_a_docstring_of_ones_own_is_read(tmp_path: Path) -> None:
    facts = own(tmp_path, DOCUMENTED, name="Pendulum", module="pendulum", id="OwnBall-v0")
    assert facts.title == "Throw a ball: as high as you can."
    assert facts.about == ("No friction.", "Two paragraphs, of two lines.")
    assert facts.observation.text == "Heights are from the floor."
    assert facts.observation.items == (
        Item(0, 0, "height, upwards", "m", "-1.0", "1.0"),
        Item(1, 2, "what is (not) a unit", "m/s^2", "-8.0", "8.0"),
    )
    assert facts.action.items == (Item(0, 0, "throw (hard) or not", "", "-2.0", "2.0"),)
    assert (facts.reward.text, facts.end.text, facts.keys) == ("", "Never. Episodes are not truncated.", "")


@pytest.mark.parametrize("title", ["", "Ball: throw\n  a ball.\n"])
def test_a_section_may_follow_on_the_title_at_once(title: str, tmp_path: Path) -> None:
    body = re.sub(r'\A""".*?"""', lambda _: f'"""{title}Action:\n  0: throw\n\nMore."""', DOCUMENTED, flags=re.DOTALL)
    facts = own(tmp_path, body, name="Pendulum", module="pendulum", id="OwnShort-v0")
    assert (facts.title, facts.about) == ("Throw a ball." if title else "", ("More.",))
    assert [item.meaning for item in facts.action.items] == ["throw"]


@pytest.mark.parametrize(
    "docstring", ["", '"""Says nothing of it."""', BEYOND, REVERSED, '"""Action:"""', "__doc__ = 5"]
)
def test_what_a_docstring_lacks_is_left_out(docstring: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = re.sub(r'\A""".*?"""', lambda _: docstring, DOCUMENTED, flags=re.DOTALL)
    facts = own(tmp_path, body, name="Pendulum", module="pendulum", id="OwnSilent-v0")
    assert facts.observation.space == "(3,) float32"
    assert all(item.low == "" for item in facts.observation.items)
    assert main(["envs", "OwnSilent-v0"]) == 0
    assert "--env.max_torque" in capsys.readouterr().out


def test_spaces_that_do_not_depend_on_tables_are_known_without() -> None:
    module = runpy.run_path(str(ROOT / "examples" / "trading.py"))
    facts = facts_of(module["Trading"])
    assert (facts.observation.space, facts.action.space) == ("(2,) float32", "one of 3")
    assert facts.tables[0][:4] == ("prices", "float32", "any x 2", "none")
    assert [one.kind for one in facts.metrics] == ["sum", "sum", "mean", "max"]


@pytest.mark.parametrize(("id", "columns"), [*((id, "60") for id in IDS), ("CartPole-v1", "120")])
def test_the_command_line_prints_all_of_it(
    id: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["envs", id]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    words, facts = set(printed.split()), known(id)
    texts: list[Any] = [facts.title, *facts.about, facts.reward.text, facts.end.text, facts.keys]
    for section in (facts.observation, facts.action):
        texts += [section.text, *(text for item in section.items for text in item[2:])]
    texts += [text for one in facts.parameters for text in (f"--env.{one.name}", one.default, one.meaning)]
    texts += [text for one in (*facts.tables, *facts.metrics) for text in one if isinstance(text, str)]
    lacking = {word for text in texts for word in text.split()} - words
    # A text that ends in a full stop of the sentence around it.
    assert {word for word in lacking if f"{word}." not in words} == set()
    assert str(LEVELS[id].seeds) in words


@pytest.mark.parametrize("id", IDS)
def test_the_page_has_each_section(id: str) -> None:
    text = made_pages()[f"docs/environments/{id}.md"]
    tables = ["Tables"] * find(id).has_tables
    sections = [
        "Observation",
        "Action",
        "Start",
        "Reward",
        "End",
        "Parameters",
        *tables,
        "What PPO learns",
        "Speed on a CPU",
    ]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == sections
    assert LEVELS[id].said in text
    picture = f"![{id}, played by a trained policy](../images/{id.lower()}.gif)"
    assert picture in text
    assert f"[{picture} **{id}**]({id}.md)" in made_pages()["docs/environments/index.md"]


def test_speeds_are_those_on_record() -> None:
    assert "| single steps, numba | 151 |" in made_pages()["docs/environments/CartPole-v1.md"]
    assert "| single steps, C++ | 17.7 |" in made_pages()["docs/environments/MinAtar-Breakout-v1.md"]
