"""Turn the results of a run of `gpu.py` into bench/results/<card>.json and the tables of docs/performance.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from env_page import table
from gpu_rows import BAD, NOTE, SKIPPED, STAND_IN, Row, read
from machine import RESULTS, slug

DOCS = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- gpu:begin -->", "<!-- gpu:end -->"


def write_pages(results: Path, folder: Path = RESULTS, page: Path = DOCS) -> int:
    """Write both; return the exit status.

    Args:
        results: The lines of a run.
        folder: For the document.
        page: Has the two marks, between which the tables are put.
    """
    rows = read(results.read_text().splitlines())
    if refusal := refused(rows):
        raise SystemExit(f"{results}: {refusal}")
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page}: expected {BEGIN} and {END} once each, the tables go between them")
    document = document_of(rows)
    path = folder / f"{slug(document['card']['name'])}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{page_of(document, path.name)}\n{END}{after}")
    print(f"written to {path} and {page}")
    return 0


def refused(rows: list[Row]) -> str | None:
    """Return why results must not become pages; None if they may."""
    modes = [row.data.get("mode") for row in rows if row.what == "the run"]
    if len(modes) != 1:
        return f"expected the lines of one run, which begin with one called 'the run', got {len(modes)} such lines"
    stand_ins = sum(row.state == STAND_IN for row in rows)
    if modes != ["run"] or stand_ins:
        return (
            f"these are not a GPU's figures (mode {modes[0]!r}, {stand_ins} rows of stand-ins): "
            "pages are made from a run of `make gpu` alone"
        )
    names = {row.what for row in rows if row.state not in BAD}
    if missing := [name for name in ("versions", "card") if name not in names]:
        return f"no row {' and '.join(missing)}, without which nobody knows what was measured: run stage a too"
    return None


def document_of(rows: list[Row]) -> dict[str, Any]:
    """Return all that programs may want to know, and the states and words of the rest."""
    known = {row.what: row.data for row in rows}
    return {
        "card": known["card"],
        **known["versions"],
        "date": known["the run"]["date"][:10],
        "command": known["the run"]["command"],
        "stages": {
            letter: [
                {"what": row.what, "state": row.state, "figure": row.figure, "seconds": row.seconds, "data": row.data}
                for row in rows
                if row.stage == letter and row.state != NOTE
            ]
            for letter in sorted({row.stage for row in rows} - {""})
        },
    }


def page_of(document: dict[str, Any], name: str) -> str:
    """Return the tables as Markdown."""
    card, versions = document["card"], document["versions"]
    about = f"{card['name']}, driver {card['driver']}, {document['date']}, `{document['command']}`"
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    lines = [f"{about}; {packages} ([everything](../bench/results/{name})).", *sections(document["stages"])]
    return "\n\n".join(lines)


def sections(stages: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yield the page's tables, of what there is."""
    found = {letter: [row["data"] for row in rows if row["state"] not in BAD] for letter, rows in stages.items()}
    speeds = [data for data in found.get("c", []) if "per_second" in data]
    if limits := next((data["limits"] for data in found.get("a", []) if data.get("limits")), None):
        yield limits_sentence(limits)
    if costs := [row for row in stages.get("a", []) if "seconds" in row["data"]]:
        yield table(("cost", "us"), [(row["what"], f"{row['data']['seconds'] * 1e6:.2f}") for row in costs])
    if speeds:
        yield speeds_table(speeds)
    if learners := [data for data in found.get("d", []) if "steps_per_second" in data]:
        yield learners_table("Trained steps", learners)
    if splits := [data for data in found.get("d", []) if "split" in data]:
        yield from map(split_table, splits)
    if beside := [row for data in found.get("e", []) for row in data.get("rows", [])]:
        yield learners_table("In turns with JAX", beside)
    if runs := [data for letter in "de" for data in found.get(letter, []) if "runs" in data]:
        yield solved_table(runs)
    yield table(("checks", "result"), [(what, words) for what, words in checks(stages)])


def limits_sentence(limits: dict[str, float]) -> str:
    """Return the limits in words."""
    return (
        f"A copy moves {limits['copy_bytes_per_second'] / 1e12:.2f} TB/s (read and written); a matrix product does "
        f"{limits['matrix_flop_per_second'] / 1e12:.0f} TFLOP/s in tf32 and "
        f"{limits['float32_flop_per_second'] / 1e12:.1f} in float32."
    )


def speeds_table(speeds: list[dict[str, Any]]) -> str:
    """Return environment steps a second, with what part of the limits they come to."""
    limits = ("copy", "tf32", "float32")
    rows = [
        (
            f"{data['env']}, {data['num_envs']:,}: {data['contender']}",
            f"{data['per_second'] / 1e6:,.1f}",
            f"{data['slowest'] / 1e6:,.1f}-{data['fastest'] / 1e6:,.1f}",
            f"{data['seconds_per_call'] * 1e6:,.1f}",
            *(f"{data['shares'][limit]:.1%}" if limit in data.get("shares", {}) else "-" for limit in limits),
        )
        for data in speeds
    ]
    return table(("steps", "M steps/s", "spread", "us a call", *(f"of {limit}" for limit in limits)), rows)


def learners_table(title: str, rows: list[dict[str, Any]]) -> str:
    """Return how many steps a second are learned from."""
    cells = [
        (
            f"{row['engine']}, {row['num_envs']:,} x 32",
            f"{row['batch_size']:,}",
            f"{row['steps_per_second'] / 1e6:,.1f}",
            f"{row['slowest'] / 1e6:,.1f}-{row['fastest'] / 1e6:,.1f}",
            f"{row['seconds_per_iteration'] * 1e3:.2f}",
        )
        for row in rows
    ]
    return table((title, "minibatch", "M steps/s", "spread", "ms an iteration"), cells)


def split_table(data: dict[str, Any]) -> str:
    """Return where the time of an engine's iteration goes."""
    total = sum(data["split"].values())
    title = f"{data['engine']}, {data['num_envs']:,} x 32, by {data['batch_size']:,}, with a wait after each part"
    cells = [(part, f"{seconds * 1e3:.2f}", f"{seconds / total:.0%}") for part, seconds in data["split"].items()]
    return table((title, "ms", "share"), cells)


def solved_table(runs: list[dict[str, Any]]) -> str:
    """Return seconds to the goal."""
    cells = [
        (f"{data['env']}, {data['engine']}", f"{data['seconds']:.2f}", f"{data['solved']} of {len(data['runs'])}")
        for data in runs
    ]
    return table(("training until solved", "median seconds", "seeds"), cells)


def checks(stages: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Yield how each stage ended, and whatever did not come out well."""
    for letter, rows in stages.items():
        for row in rows:
            if row["data"].get("whole"):
                counts = Counter(one["state"] for one in rows if not one["data"].get("whole"))
                tally = ", ".join(f"{number} {state}" for state, number in counts.items())
                yield f"{letter}: {row['what']}", f"{row['state']}: {row['figure'] or tally}"
            elif row["state"] in BAD or (row["state"] == SKIPPED and letter != "f"):
                yield row["what"].replace("|", "\\|"), f"{row['state']}: {row['figure']}".replace("|", "\\|")
