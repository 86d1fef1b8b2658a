"""Writes a Terraform test from a table of invalid inputs.

    python3 validation.py TABLE DIRECTORY

TABLE is the `tests/validation.toml` of a module. The test in DIRECTORY plans `tests/variables` of the same module, which
has the variables of the module and no resources. It needs no provider, so a case takes milliseconds.
"""

import copy
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def with_value(valid: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Returns the variables of `valid` with `value` at `path`."""
    if path == ["caches"] and isinstance(valid["caches"], dict):
        cache = valid["caches"]["web"]
        return {"caches": {name: cache | changes for name, changes in value.items()}}
    if path == ["caches", "web"]:
        return {"caches": {"web": valid["caches"]["web"] | value}}
    variables: Any = copy.deepcopy(valid)
    parent = variables
    *parents, last = path
    for key in parents:
        parent = parent.setdefault(key, {})
    parent[int(last) if isinstance(parent, list) else last] = value
    return {path[0]: variables[path[0]]}


def run(variables: dict[str, Any], refused_by: str | None) -> dict[str, Any]:
    """Returns a run block that plans `variables`, which the variable `refused_by` must refuse."""
    block: dict[str, Any] = {
        "command": "plan",
        "module": {"source": "./tests/variables"},
        "variables": variables,
    }
    if refused_by:
        block["expect_failures"] = [f"var.{refused_by}"]
    return block


def main() -> None:
    """Writes the test."""
    table, directory = Path(sys.argv[1]), Path(sys.argv[2])
    headings = tomllib.loads(table.read_text())
    valid = headings.pop("valid")
    runs = {}
    for heading, cases in headings.items():
        path = heading.split(".")
        for label, value in cases.items():
            name = re.sub(r"\W+", "_", f"{heading} {label} is refused")
            if name in runs:
                sys.exit(f"{heading}: two cases are called `{label}`. Rename one.")
            runs[name] = run(with_value(valid, path, value), refused_by=path[0])
    directory.mkdir(parents=True, exist_ok=True)
    test = {"variables": valid, "run": runs}
    (directory / "validation.tftest.json").write_text(json.dumps(test, indent=2))
    print(f"{len(runs)} invalid inputs")


main()
