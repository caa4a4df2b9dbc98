# SPDX-License-Identifier: Apache-2.0
"""Checks of client scripts. Each passes under the name "client: call", and those names are the rows of a table in
docs/compatibility.md: a script that runs with the demo model fails when the table says anything else.
With TABLE_WRITE=1 it rewrites the table."""

import os
import pathlib
import sys

PAGE = pathlib.Path(__file__).parents[2] / "docs/compatibility.md"
SYSTEMS = {
    "openai": "vLLM, FastChat", "hub": "TGI", "text_generation": "TGI", "langchain": "vLLM", "litellm": "all",
    "ollama": "Ollama", "ollama command line": "Ollama", "maritalk": "MariTalk Local", "tritonclient": "Triton",
    "pytriton": "PyTriton", "curl": "all",
}
failures, rows = 0, []


def check(name, condition, found=None):
    global failures
    if not condition:
        failures += 1
    rows.append(name)
    print(f"{'ok    ' if condition else 'FAILED'} {name}" + ("" if condition else f": {found!r}"), flush=True)
    return bool(condition)


def refused(name, error, call):
    try:
        found = call()
    except error as e:
        check(name, True)
        return e
    check(name, False, found)


def finish(script, compare):
    """Ends the script; `compare`: all its rows ran, so the table must hold exactly them."""
    if compare and failures == 0:
        compare_table(script)
    print(f"{failures} failed")
    sys.exit(1 if failures else 0)


def compare_table(script):
    global failures
    want = ["| system | client | call |", "|---|---|---|"]
    for name in rows:
        client, call = name.split(": ", 1)
        want.append(f"| {SYSTEMS[client]} | {client} | {call} |")
    mark = f"<!-- rows of {script} -->"
    head, _, rest = PAGE.read_text().partition(mark + "\n")
    lines = rest.split("\n")
    end = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    if lines[:end] == want:
        return
    if os.environ.get("TABLE_WRITE"):
        PAGE.write_text(head + mark + "\n" + "\n".join(want + lines[end:]))
        return
    failures += 1
    print(f"FAILED the table under {mark} in docs/compatibility.md is not what ran; TABLE_WRITE=1 rewrites it")
    for line in sorted(set(want) ^ set(lines[:end])):
        print(("  ran: " if line in want else "  table: ") + line)
