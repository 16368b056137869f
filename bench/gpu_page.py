"""Turn the results of runs of `gpu.py` into bench/results/gpu-<card>.json and the tables of docs/performance.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_rows import BAD, FAILED, LEFT_OUT, NOTE, OK, SKIPPED, STAND_IN, Row, read
from machine import RESULTS, slug
from page import learners_table, split_table, table

DOCS = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- gpu:begin -->", "<!-- gpu:end -->"


def write_pages(results: Path, folder: Path = RESULTS, page: Path = DOCS) -> int:
    """Write both, or neither; return the exit status.

    Args:
        results: The lines of runs, of which the newest of each stage counts.
        folder: For the document.
        page: Has the two marks, between which the tables are put.
    """
    runs = runs_of(results)
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page}: expected {BEGIN} and {END} once each, the tables go between them")
    try:
        document = document_of(runs)
        path = folder / f"gpu-{slug(document['card']['name'])}.json"
        # No text of a result is to be a mark.
        tables = page_of(document, path.name).replace("<!--", "&lt;!--")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SystemExit(f"{results}: expected results of this version of gpu.py, got {error!r} of them") from error
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(json.dumps(document, indent=2) + "\n")
    page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")
    print(f"written to {path} and {page}")
    return 0


def runs_of(results: Path) -> list[list[Row]]:
    """Return the rows of each run in a results file.

    Raises:
        SystemExit: If pages must not be made of them, with the reason.
    """
    try:
        lines = results.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{results}: expected a results.jsonl of gpu.py: {error}") from error
    runs, damaged = list[list[Row]](), ""
    for number, line in enumerate(lines, 1):
        rows = read([line])
        if line and not rows:
            damaged = f"{number}: expected a row of gpu.py, got {line[:60]!r}"
        for row in rows:
            if row.what == "the run":
                # Only the end of a run may be cut off.
                runs.append([])
                damaged = ""
            if damaged or not runs:
                raise SystemExit(f"{results}:{damaged or f'{number}: expected a row called the run, got {row.what!r}'}")
            runs[-1].append(row)
    if not runs:
        raise SystemExit(f"{results}: expected rows of gpu.py, got none")
    if refusal := refused(runs):
        raise SystemExit(f"{results}: {refusal}")
    return runs


def refused(runs: list[list[Row]]) -> str | None:
    """Return why results must not become pages; None if they may."""
    rows = [row for run in runs for row in run]
    modes = {str(run[0].data.get("mode")) for run in runs}
    stand_ins = sum(row.state == STAND_IN for row in rows)
    if modes - {"run"} or stand_ins:
        return (
            f"these are not a GPU's figures (modes {', '.join(sorted(modes))}; {stand_ins} rows of stand-ins): "
            "pages are made from a run of `make gpu` alone"
        )
    for name in ("versions", "card"):
        told = {run[0].data.get("host") for run in runs for row in run if row.what == name and row.state == OK}
        if unknown := {run[0].data.get("host") for run in runs} - told:
            hosts = ", ".join(sorted(map(str, unknown)))
            return f"no row {name} of {hosts}, without which nobody knows what was measured: run stage a too"
    if len(cards := {str(row.data.get("name")) for row in rows if row.what == "card" and row.state == OK}) > 1:
        return f"these are results of several cards ({', '.join(sorted(cards))}): give those of one"
    return None


def document_of(runs: list[list[Row]]) -> dict[str, Any]:
    """Return all that programs may want to know, and the states and words of the rest."""
    # Of each stage what the newest run says that came to it, or that none did.
    newest = {row.stage: at for at, run in enumerate(runs) for row in run if row.state == LEFT_OUT}
    newest |= {row.stage: at for at, run in enumerate(runs) for row in run if row.state not in (NOTE, LEFT_OUT)}
    known = {row.what: row.data for run in runs for row in run if row.state == OK}
    begun = [runs[at][0].data for at in sorted(set(newest.values()))]
    return {
        "card": known["card"],
        **known["versions"],
        "date": begun[-1]["date"][:10],
        "command": "; ".join(dict.fromkeys(one["command"] for one in begun)),
        "stages": {
            letter: [
                {"what": row.what, "state": row.state, "figure": row.figure, "seconds": row.seconds, "data": row.data}
                for row in runs[newest[letter]]
                if row.stage == letter and row.state != NOTE
            ]
            for letter in sorted(newest)
        },
    }


def page_of(document: dict[str, Any], name: str) -> str:
    """Return the tables as Markdown."""
    card, versions = document["card"], document["versions"]
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    about = (
        f"These figures are from one {card['name']} with driver {card['driver']}, on {document['date']}, "
        f"with {packages} ([raw results](../bench/results/{name})). The command was `{document['command']}`."
    )
    lines = [about, *sections(document["stages"])]
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
    if widths := [data for data in found.get("h", []) if "width" in data]:
        yield widths_table(widths)
    if decisions := [row for row in stages.get("i", []) if "ratio" in row["data"]]:
        yield decisions_table(decisions)
    yield table(("checks", "result"), [(what, words) for what, words in checks(stages)])


def limits_sentence(limits: dict[str, float]) -> str:
    """Return the limits in words."""
    return (
        f"A copy moves {limits['copy_bytes_per_second'] / 1e12:.2f} TB/s (read and written). A matrix product does "
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


def solved_table(runs: list[dict[str, Any]]) -> str:
    """Return seconds to the goal."""
    cells = [
        (f"{data['env']}, {data['engine']}", f"{data['seconds']:.2f}", f"{data['solved']} of {len(data['runs'])}")
        for data in runs
    ]
    return table(("training until solved", "median seconds", "seeds"), cells)


def widths_table(widths: list[dict[str, Any]]) -> str:
    """Return how fast rollouts are that a network acts in, fused and by a graph."""
    cells = []
    for data in widths:
        speeds = {row["contender"]: f"{row['per_second'] / 1e6:,.1f}" for row in data["rows"]}
        ratio = f"{data['ratio']:.2f}" if "ratio" in data else "-"
        name = f"{data['env']}, {data['num_envs']:,}, {data['width']} x {data['width']}"
        cells.append((name, speeds.get("fused", "-"), speeds["graph"], ratio))
    return table(("stored rollouts of a network", "fused, M steps/s", "graph, M steps/s", "fused/graph"), cells)


def decisions_table(rows: list[dict[str, Any]]) -> str:
    """Return what kernels take, and what could stand for them."""
    cells = []
    for row in rows:
        data = row["data"]
        share = f"{data['share']:.2%}" if "share" in data else "-"
        other = data["rows"][1]["contender"]
        kernel, instead = (f"{seconds * 1e6:,.2f}" for seconds in data["seconds"])
        cells.append((row["what"], kernel, f"{other} {instead}", f"{data['ratio']:.3f}", share))
    return table(("kernel", "us", "instead, us", "times as long", "more, of an iteration"), cells)


def checks(stages: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Yield how each stage ended, and whatever did not come out well."""
    for letter, rows in stages.items():
        for row in rows:
            if row["data"].get("whole"):
                yield f"{letter}: {cell(row['what'])}", cell(f"{row['state']}: {row['figure']}")
            elif row["state"] in BAD or (row["state"] == SKIPPED and letter != "f"):
                yield cell(row["what"]), cell(f"{row['state']}: {row['figure']}")
        if not any(row["data"].get("whole") for row in rows):
            yield letter, f"{FAILED}: the run was cut off within this stage"


def cell(text: str) -> str:
    """Return a text as a table's cell, without what ends one."""
    return text.replace("|", "\\|").replace("\n", " ")
