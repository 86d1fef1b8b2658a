"""Parameters of prepull's own SSM documents, which a shell reads as part of a script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcloud.ssm import SsmError, check_parameters, shell_script

DOCUMENTS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in (Path(__file__).parents[2] / "infra/documents").glob("*.yaml")
}
PARAMETERS = [
    (document, name, rule)
    for document, content in sorted(DOCUMENTS.items())
    for name, rule in content.get("parameters", {}).items()
]

# A valid value of each parameter. A new parameter needs one.
SAMPLES = {
    ("image-status", "Names"): "registry.example.com:5000/team/api:v1 docker.io/library/a@sha256:0",
    ("pull-images", "Changes"): "pull-pinned,1,docker.io/team/api@sha256:0 unpin,docker.io/b:1",
}

# Every ASCII character with a meaning in a shell, and every control character.
METACHARACTERS = [c for c in map(chr, range(128)) if not re.match(r"[A-Za-z0-9 ,.:/@_%+=-]", c)]


def accepts(document: str, name: str, value: str) -> bool:
    try:
        check_parameters(DOCUMENTS[document]["parameters"], {name: [value]})
    except SsmError:
        return False
    return True


def test_every_document_is_checked() -> None:
    assert {document for document, _, _ in PARAMETERS} == {document for document, _ in SAMPLES}
    assert len(DOCUMENTS) == 4


@pytest.mark.parametrize(("document", "name", "rule"), PARAMETERS)
def test_parameter_has_an_anchored_pattern(document: str, name: str, rule: dict[str, Any]) -> None:
    assert rule["type"] == "String", f"{document}: {name} needs a test for its type"
    pattern = rule.get("allowedPattern", "")
    assert pattern, f"{document}: {name} has no allowedPattern"
    assert pattern.startswith("^") and pattern.endswith("$"), f"{document}: {pattern}"


@pytest.mark.parametrize(("document", "name"), [(d, n) for d, n, _ in PARAMETERS])
def test_parameter_rejects_shell_metacharacters(document: str, name: str) -> None:
    sample = SAMPLES[document, name]
    assert accepts(document, name, sample)
    accepted = [
        (character, position)
        for character in METACHARACTERS
        for position in range(len(sample))
        if accepts(document, name, sample[:position] + character + sample[position:])
    ]
    assert accepted == []


@pytest.mark.parametrize(("document", "name"), [(d, n) for d, n, _ in PARAMETERS])
def test_parameter_rejects_options(document: str, name: str) -> None:
    assert not accepts(document, name, f"--label=a {SAMPLES[document, name]}")
    assert not accepts(document, name, f"{SAMPLES[document, name]} --label=a")


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_script_uses_every_parameter_and_no_other(document: str) -> None:
    content = DOCUMENTS[document]
    declared = set(content.get("parameters", {}))
    (step,) = content["mainSteps"]
    used = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", "\n".join(step["inputs"]["runCommand"])))
    assert used == declared
    script, _ = shell_script(content, {name: [SAMPLES[document, name]] for name in declared})
    assert "{{" not in script
