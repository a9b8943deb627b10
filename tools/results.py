"""Writes docs/results.md: what is published, what was measured here, and what was not run.

python -m tools.results
python -m tools.results --add RUN/eval/step_2400/report.json --config ve/mnist \
    --command "python main.py --config ..." --machine "2 cores of an AMD EPYC"

Published numbers come from the docstrings of the configs. Those of this project come from the
reports of `--mode eval`: `--add` keeps the numbers of a report in benchmarks/results.json, with its
date, the commit, the machine and the command.
"""

import argparse
import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

from scorax.tools import list_configs
from scorax.utils import command_line
from scorax.utils.cards import QUANTITIES, headlines
from scorax.utils.logging import read_json, write_atomically

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
RECORDS = ROOT / "benchmarks" / "results.json"
HEAD = """# Results

What is published for each config, and what was measured here. `python -m tools.results` writes this
page from the configs and from reports of `--mode eval`; do not edit it by hand. More measurements,
of speed too, are in [benchmarks/RESULTS.md](../benchmarks/RESULTS.md).

## Measured here

"""
BETWEEN = """
The command of each line:

"""
PUBLISHED = """
## Published, and not run here

`python main.py --config configs/NAME.py --mode train` trains each of them, and published weights
can be evaluated ([migrating.md](migrating.md)). None of it was done here.

"""


def add(path: str, config: str, command: str, machine: str) -> int:
    """Adds the numbers of a report to the records; returns how many.

    Raises:
      ValueError: if the report has no numbers, or there is no such config.
    """
    if config not in list_configs.names():
        raise ValueError(f"--config={config} is no config; name one such as ve/mnist")
    report = read_json(path)
    found = list(headlines(report))
    if not found:
        raise ValueError(f"{path} has no number that the page shows ({', '.join(QUANTITIES)})")
    versions = report.get("versions", {})
    date = datetime.date.fromtimestamp(os.path.getmtime(path)).isoformat()
    about = {"config": config, "machine": machine, "date": date, "command": command}
    about |= {"commit": (versions.get("commit") or "")[:10], "jax": versions.get("jax")}
    records = read_records()
    for task, quantity, value, count in found:
        record = about | {"task": task, "quantity": quantity, "value": value, "examples": count}
        same = ("config", "task", "quantity", "command")
        records = [r for r in records if any(r[key] != record[key] for key in same)] + [record]
    records.sort(key=lambda r: (r["config"], r["task"], r["quantity"], r["command"]))
    text = json.dumps(records, indent=1, ensure_ascii=False)
    write_atomically(RECORDS, lambda file: file.write((text + "\n").encode()))
    return len(found)


def read_records() -> list[dict[str, Any]]:
    """The records of all measurements."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else []


def page(records: list[dict[str, Any]]) -> str:
    """Returns the whole page."""
    commands = sorted({r["command"] for r in records})
    rows = [
        _line(
            f"[`{r['config']}`](../configs/{r['config']}.py)", r["task"], r["quantity"],
            f"{r['value']:.4g}", r["examples"] or "", r["machine"], r["date"], r["commit"],
            commands.index(r["command"]) + 1,
        )
        for r in records
    ]  # fmt: skip
    head = ("config", "task", "quantity", "value", "examples", "machine", "date", "commit", "no.")
    lines = [_line(*head), "|" + "---|" * len(head), *rows]
    listed = [f"{i + 1}. `{command}`" for i, command in enumerate(commands)]
    published = []
    for name in list_configs.names():
        docstring, _ = list_configs.load(name)
        values = list_configs.published(docstring)
        if values:
            said = re.search(r"^Published: .*?\(([^)]*)\)", docstring, re.MULTILINE | re.DOTALL)
            source = " ".join(said[1].split()) if said else ""
            cells = [values.get(column, "") for column in list_configs.PUBLISHED]
            published.append(_line(f"[`{name}`](../configs/{name}.py)", *cells, source, "not run"))
    head = ("config", *list_configs.PUBLISHED, "source", "here")
    below = [_line(*head), "|" + "---|" * len(head), *published]
    parts = (HEAD, lines), (BETWEEN, listed), (PUBLISHED, below)
    return "".join(text + "\n".join(part) + "\n" for text, part in parts)


def _line(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def run(argv: list[str]) -> None:
    """Adds a report if one is given, and writes the page."""
    parser = argparse.ArgumentParser(
        "python -m tools.results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--add", metavar="REPORT", help="report.json of an evaluation")
    parser.add_argument("--config", help="name of its config, such as ve/mnist")
    parser.add_argument("--command", help="the command that was run")
    parser.add_argument("--machine", help="where, in words")
    arguments = parser.parse_args(argv[1:])
    if arguments.add:
        about = (arguments.config, arguments.command, arguments.machine)
        if not all(about):
            raise ValueError("--add needs --config, --command and --machine")
        print(f"{add(arguments.add, *about)} numbers of {arguments.add} are in {RECORDS}")
    PAGE.write_text(page(read_records()), encoding="utf-8")


def main() -> None:
    """Runs the tool; prints errors that a user can fix as one sentence, without a traceback."""
    command_line.run_tool(run)


if __name__ == "__main__":
    main()
