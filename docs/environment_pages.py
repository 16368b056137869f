"""Pages that are made when the site is built: one for each environment of the library, and a gallery of all.

What they say is what `operant_gpu.facts` knows, which `operant-gpu envs ENV` prints too, with what PPO's preset learns,
and with the speeds in bench/results.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import operant_gpu
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.environment import Definition
from operant_gpu.facts import Facts, Section, facts_of, module_of
from operant_gpu.models.presets import LEVELS, PRESETS, millions
from operant_gpu.registry import find

ROOT = Path(__file__).parents[1]
FOLDER = "environments"
# Files of bench/results, and what they call their measurements.
MEASURED = {"intel-r-xeon-r-processor": ("environments",), "games-intel-r-xeon-r-processor": ("games", "twins")}
# What pages show of them, where they have it.
CONTENDERS = {
    "step, numba": "single steps, numba",
    "rollout random, numba": "rollouts of random actions, numba",
    "step, cpp, 2 threads": "single steps, C++",
    "rollout random, cpp, 2 threads": "rollouts of random actions, C++",
    "step, Triton on numpy": "single steps, NumPy",
    "rollout random, Triton on numpy": "rollouts of random actions, NumPy",
    "step, gymnasium vector": "Gymnasium's own vector environment, single steps",
    "step, gymnasium sync": "Gymnasium's `SyncVectorEnv`, single steps",
    "step, envpool": "EnvPool, single steps",
    "rollout random, gymnax on cpu": "gymnax, rollouts of random actions",
    "MinAtar package, with obs": "MinAtar package, one game on one core",
}


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages to the site."""
    for uri, text in pages().items():
        files.append(File.generated(config, uri, content=text))
    return files


@functools.cache
def pages() -> dict[str, str]:
    """Return the Markdown of each page, by its place in docs/."""
    own = {value.id: name for name, value in vars(operant_gpu.envs).items() if isinstance(value, Definition)}
    known = {id: facts_of(find(id)) for id in sorted(own, key=[*PRESETS].index)}
    made = {f"{FOLDER}/{id}.md": page_of(find(id), own[id], facts) for id, facts in known.items()}
    return {f"{FOLDER}/index.md": gallery_of(known), **made}


def gallery_of(known: dict[str, Facts]) -> str:
    """Return the page that shows all environments: each paragraph of its grid is one."""
    tiles = [f"[{picture_of(id)} **{id}**]({id}.md)<br>{facts.title}" for id, facts in known.items()]
    return "\n\n".join(
        (
            # First in the search for what they are about.
            "---\nhide: [toc]\nsearch: {boost: 2}\n---",
            "# Environments",
            f"{len(known)} environments come with the library. Each picture shows a policy that PPO has trained with "
            "the environment's preset. The page of an environment says what its observations, actions and rewards are, "
            "the units of observations and actions, what ends an episode, and which parameters can be changed. "
            "`operant-gpu envs CartPole-v1` prints the same in a terminal, and `operant-gpu envs FILE.py:NAME` "
            "does so for an environment of your own.",
            '<div class="gallery environments" markdown>',
            *tiles,
            "</div>\n",
        )
    )


def page_of(definition: Definition, name: str, facts: Facts) -> str:
    """Return the page of an environment, which has a name in `operant_gpu.envs`."""
    id = definition.id
    sections = [
        f"# {id}",
        f"{facts.title} {' '.join(facts.about)}",
        '<div class="environment" markdown>',
        picture_of(id),
        table(("", ""), overview_of(definition, name, facts)),
        "</div>",
        f"```sh\noperant-gpu train {id}\noperant-gpu play {id}\n```",
        f'```python\nimport operant_gpu\n\nenv = operant_gpu.make("{id}", num_envs=64)\nobs, info = env.reset(seed=0)\n'
        "env.rollout(1000)  # random actions\nprint(obs.shape, env.get_logs())\n```",
        *items_of("Observation", facts.observation),
        *items_of("Action", facts.action),
        *([f"The keys of `operant-gpu play` are: {facts.keys}."] if facts.keys else []),
        f"## Start\n\n{facts.start.text}",
        f"## Reward\n\n{facts.reward.text}",
        f"## End\n\n{facts.end.text}",
        *parameters_of(id, facts),
        *learned_of(id),
        *speed_of(id),
    ]
    return "\n\n".join(sections).replace("^2", "²") + "\n"


def picture_of(id: str) -> str:
    """Return the picture of an environment."""
    return f"![{id}, played by a trained policy](../images/{id.lower()}.gif)"


def overview_of(definition: Definition, name: str, facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield what most people look for."""
    limit, goal = definition.max_episode_steps, definition.reward_threshold
    yield "observation", facts.observation.space
    yield "action", facts.action.space + (", masked" if definition.has_action_mask else "")
    yield "time limit", "none" if limit is None else f"{limit:,} steps"
    if goal is not None:
        yield "solved at", f"mean return {goal:g}"
    yield "in Python", f"`operant_gpu.envs.{name}`"
    yield "source", ", ".join(source_of(file) for file in sources_of(definition))


def sources_of(definition: Definition) -> Iterator[Path]:
    """Yield the files that an environment is written in."""
    yield Path(module_of(definition).__file__)
    if isinstance(definition, CudaEnvironment):
        yield Path(definition.source)


def source_of(file: Path) -> str:
    """Return a link to a file of the repository."""
    return f"[{file.name}](../../{file.relative_to(ROOT).as_posix()})"


def items_of(name: str, section: Section) -> Iterator[str]:
    """Yield what is said of observations or actions."""
    yield f"## {name}"
    if section.text:
        yield section.text
    if columns := section.columns:
        yield table(tuple(columns), zip(*columns.values(), strict=True))


def parameters_of(id: str, facts: Facts) -> Iterator[str]:
    """Yield what is said of parameters, tables and metrics."""
    yield "## Parameters"
    if facts.parameters:
        rows = [(f"`{one.name}`", one.default, one.meaning, ", ".join(one.kinds)) for one in facts.parameters]
        yield table(("parameter", "default", "unit and meaning", "may be given as"), rows)
        name, default = facts.parameters[0].name, facts.parameters[0].default
        yield (
            f'In Python, write `operant_gpu.make("{id}", {name}={default})`. On the command line, write '
            f"`--env.{name} {default}`. If you give a range, such as `5..15`, each episode draws its "
            "own number from it. A tensor has one number for all environments, or one for each. "
            "[Parameters](../parameters.md) explains all forms."
        )
    else:
        yield "There are none."
    if facts.tables:
        rows = [(f"`{one.name}`", one.dtype, one.shape, one.meaning) for one in facts.tables]
        yield "## Tables"
        yield "All environments of a batch share these. [How to give others](../tables_and_metrics.md)."
        yield table(("table", "numbers", "shape", "meaning"), rows)
    if facts.metrics:
        yield "## Metrics"
        yield table(("metric", "over an episode", "meaning"), facts.metrics)


def learned_of(id: str) -> Iterator[str]:
    """Yield what the preset is, and what it learns."""
    level = LEVELS[id]
    yield "## What PPO learns"
    yield (
        f"With its preset, PPO learns a mean return of {level.said} in {millions(level.steps)} steps. This is the mean "
        f"of {level.seeds} seeds; ± is half of its 95 % interval. A training takes {level.seconds:,.0f} s on one core "
        "of a CPU. [Results](../results.md#levels-at-equal-steps) compares this with others, and says with which seeds "
        "the presets were chosen. The preset differs from the defaults in these [settings](../settings.md):"
    )
    yield table(("setting", "value"), [(f"`{name}`", f"`{_value(value)}`") for name, value in PRESETS[id].items()])


def speed_of(id: str) -> Iterator[str]:
    """Yield what was measured of its speed."""
    yield "## Speed on a CPU"
    for file, kinds in MEASURED.items():
        report = json.loads((ROOT / "bench" / "results" / f"{file}.json").read_text())
        # The environment that was measured at several sizes has the figures that other pages give.
        own = report["sizes"][str(report["one_size"])] if report.get("env") == id else ()
        found = [*(row for kind in kinds for row in report[kind].get(id, ())), *own]
        speeds = {row["contender"]: row["per_second"] / 1e6 for row in found}
        rows = [(said, f"{speeds[name]:.3g}") for name, said in CONTENDERS.items() if name in speeds]
        if rows:
            num_envs = report.get("one_size") or report["num_envs"]
            yield table(("", "million steps a second"), rows)
            yield (
                f"Measured with {num_envs:,} environments on {report['cores']} CPU cores ({report['machine']}), "
                f"{report['date']} ([raw data](../../bench/results/{file}.json))."
            )
            break
    yield f"`operant-gpu bench {id}` measures how fast it is on your machine."


def table(headings: Sequence[str], rows: Any) -> str:
    """Return a table."""
    lines = (headings, ["---"] * len(headings), *rows)
    # A bar in a cell would divide it.
    plain = ([cell.replace("|", "\\|") for cell in cells] for cells in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in plain)


def _value(value: Any) -> str:
    return f"{value:_}" if type(value) is int else repr(value)
