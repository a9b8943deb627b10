"""The pages of docs/: the blocks of code on them, and what these print."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def blocks(page, language="python"):
    """The blocks of code of a page of docs/, in their order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def run(program, monkeypatch):
    """What a program prints when it is run in the root of the repository, and its names."""
    monkeypatch.chdir(ROOT)
    names, printed = {"__name__": "program"}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "program", "exec"), names)
    return printed.getvalue().splitlines(), names
