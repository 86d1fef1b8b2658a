"""Writes a Terraform test from the table of invalid inputs, `validation.toml`.

    python3 validation.py DIRECTORY

The test in DIRECTORY plans the module `tests/variables`, which has the variables of the prepull module and no
resources. It needs no provider, so a case takes milliseconds.
"""

import copy
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

VALID_CACHE = {"images": ["docker.io/library/nginx:1.27"], "variant": "aws-k8s-1.33"}

VALID = {"functions_directory": "tests/functions", "caches": {"web": VALID_CACHE}}


def with_value(path: list[str], value: Any) -> dict[str, Any]:
    """Returns the valid variables with `value` at `path`."""
    if path == ["caches"]:
        return {"caches": {name: VALID_CACHE | cache for name, cache in value.items()}}
    if path == ["caches", "web"]:
        return {"caches": {"web": VALID_CACHE | value}}
    variables: Any = copy.deepcopy(VALID)
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
    runs = {}
    for heading, cases in tomllib.loads((HERE / "validation.toml").read_text()).items():
        path = heading.split(".")
        for label, value in cases.items():
            name = re.sub(r"\W+", "_", f"{heading} {label} is refused")
            if name in runs:
                sys.exit(f"{heading}: two cases are called `{label}`. Rename one.")
            runs[name] = run(with_value(path, value), refused_by=path[0])
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    test = {"variables": VALID, "run": runs}
    (directory / "validation.tftest.json").write_text(json.dumps(test, indent=2))
    print(f"{len(runs)} invalid inputs")


main()
