#!/usr/bin/env python3
"""Writes the tables of inputs and outputs into README.md of each module, between its markers.

    docs-table.py            write them
    docs-table.py --check    only say, by the exit code, whether they are up to date

Reads the files as `terraform fmt` leaves them: a block ends with a brace at a line's beginning.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
MODULES = [HERE, HERE / "modules/nodes", HERE / "modules/sync"]
MARKED = re.compile(r"(<!-- BEGIN TABLES -->\n).*(<!-- END TABLES -->)", re.DOTALL)


def blocks(kind, file):
    """The blocks of one kind as pairs of name and body, by name."""
    return sorted(
        re.findall(rf'^{kind} "(\w+)" {{\n(.*?)^}}$', file.read_text(), re.MULTILINE | re.DOTALL)
    )


def attribute(body, name):
    """The text of a block's own attribute, over as many lines as it has, or None."""
    # Either one line, or from one that opens a bracket to the bracket with the attribute's indent.
    found = re.search(
        rf"^  {name} += ([^\n]*[(\[{{]\n.*?\n  [)\]}}]+|[^\n]*)$", body, re.MULTILINE | re.DOTALL
    )
    return found and found[1]


def description(body):
    return json.loads(attribute(body, "description")).replace("|", "\\|")


def inputs(module):
    yield "| Name | Description | Type | Default |\n| --- | --- | --- | --- |"
    long_types = []
    for name, body in blocks("variable", module / "variables.tf"):
        kind, default = attribute(body, "type"), attribute(body, "default")
        if "\n" in kind:
            long_types.append((name, kind))
            kind = f"see [{name}](#input-{name})"
        else:
            kind = f"`{kind}`"
        default = f"`{default}`" if default else "required"
        yield f"| `{name}` | {description(body)} | {kind} | {default} |"
    for name, kind in long_types:
        kind = re.sub(r"^  ", "", kind, flags=re.MULTILINE)
        yield f'\n<a id="input-{name}"></a>\n### `{name}`\n\n```hcl\n{kind}\n```'


def outputs(module):
    yield "| Name | Description |\n| --- | --- |"
    for name, body in blocks("output", module / "outputs.tf"):
        yield f"| `{name}` | {description(body)} |"


def main():
    outdated = []
    for module in MODULES:
        readme = module / "README.md"
        tables = "\n".join(["## Inputs\n", *inputs(module), "\n## Outputs\n", *outputs(module), ""])
        old = readme.read_text()
        new = MARKED.sub(lambda marked: f"{marked[1]}{tables}{marked[2]}", old)
        if new != old:
            outdated.append(str(readme))
            if "--check" not in sys.argv[1:]:
                readme.write_text(new)
    if outdated and "--check" in sys.argv[1:]:
        sys.exit(f"{', '.join(outdated)} is out of date: run {Path(__file__).name}")


if __name__ == "__main__":
    main()
