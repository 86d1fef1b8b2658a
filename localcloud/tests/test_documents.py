"""Parameters of prepull's own SSM documents, which a shell reads as part of a script."""

from __future__ import annotations

import os
import re
import subprocess
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
    ("fingerprint", "Level"): "records",
    ("image-status", "Names"): (
        "registry.example.com:5000/api@sha256:0:v1 docker.io/library/a@sha256:0"
    ),
    ("pull-images", "Changes"): "pull-pinned,1,docker.io/team/api@sha256:0 unpin,docker.io/b:1",
    ("verify", "Images"): "registry.example.com:5000/api@sha256:0:v1 docker.io/library/a@sha256:0",
    ("verify", "Level"): "full",
    ("verify", "Trees"): "0123456789abcdef" * 4,
}

# Every ASCII character with a meaning in a shell, and every control character.
METACHARACTERS = [c for c in map(chr, range(128)) if not re.match(r"[A-Za-z0-9 ,.:/@_%+=-]", c)]


def accepts(document: str, name: str, value: str) -> bool:
    try:
        others = {n: [SAMPLES[d, n]] for d, n in SAMPLES if d == document}
        check_parameters(DOCUMENTS[document]["parameters"], others | {name: [value]})
    except SsmError:
        return False
    return True


def test_every_document_is_checked() -> None:
    assert {document for document, _, _ in PARAMETERS} == {document for document, _ in SAMPLES}
    assert len(DOCUMENTS) == 6


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


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_script_fits_into_a_message_of_apiclient(document: str) -> None:
    (step,) = DOCUMENTS[document]["mainSteps"]
    (script,) = step["inputs"]["runCommand"]
    # `apiclient exec` sends the command line as one message of at most 64 KiB: a list of numbers
    # for the bytes, which takes at most four characters for each.
    assert sum(len(f"{byte},") for byte in script.encode()) < 64 << 10


# Stand-ins for Bottlerocket's tools, which print the lists of a directory.
APICLIENT = '#!/bin/bash\nshift 3\nexec "$@"\n'
SHELTIE = """#!/bin/bash
case "$*" in
  *" images ls") cat listed ;;
  *" images check") cat checked ;;
  systemctl*) cat units ;;
  journalctl*) printf 'level=fatal msg="%01500d"\n' 0 ;;
  df*) printf 'size used\n1000 300\n' ;;
esac
"""


def image_status(directory: Path, names: list[str]) -> list[str]:
    """Returns the output of `image-status` for the lists in the directory."""
    for name, script in (("apiclient", APICLIENT), ("sheltie", SHELTIE)):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    script, _ = shell_script(DOCUMENTS["image-status"], {"Names": [" ".join(names)]})
    environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment, capture_output=True, check=True
    )
    return run.stdout.decode().splitlines()


def test_image_status_tells_the_states_of_names_apart(tmp_path: Path) -> None:
    a, b = (f"sha256:{digit * 64}" for digit in "ab")
    pinned = "io.cri-containerd.pinned=pinned"
    (tmp_path / "units").touch()
    (tmp_path / "listed").write_text(
        "REF TYPE DIGEST SIZE PLATFORMS LABELS\n"
        f"r/a@{a} t {a} 1 p {pinned}\nr/a:1 t {a} 1 p {pinned}\n"
        f"r/b@{b} t {b} 1 p -\nr/b:1 t {a} 1 p -\nr/c@{b} t {b} 1 p -\n"
    )
    (tmp_path / "checked").write_text(
        f"r/a@{a} t {a} complete (2/2) 1/1 true\nr/a:1 t {a} complete (2/2) 1/1 true\n"
        f"r/b@{b} t {b} complete (2/2) 1/1 false\nr/b:1 t {a} complete (2/2) 1/1 true\n"
        f"r/c@{b} t {b} incomplete (1/2) 1/1 true\n"
    )
    names = [f"r/a@{a}:1", f"r/b@{b}:1", f"r/c@{b}:1", f"r/a@{a}"]
    assert "NAMES UUpmi-U" in image_status(tmp_path, names)


def test_image_status_of_200_images_fits_into_the_output(tmp_path: Path) -> None:
    digests = [f"sha256:{number:064x}" for number in range(400)]
    repository = "registry.example.com/" + "p" * 97
    wanted = [(f"{repository}/{n:03}", digests[n]) for n in range(200)]
    stale = [(f"{repository}/{n:03}", digests[n]) for n in range(200, 400)]
    entries = [
        (name, digest)
        for repository, digest in wanted + stale
        for name in (f"{repository}@{digest}", f"{repository}:v1")
    ]
    listed = [f"{name} type {digest} 1 linux/amd64 -" for name, digest in entries]
    (tmp_path / "listed").write_text("\n".join(["REF", *listed]) + "\n")
    checked = [f"{name} type {digest} complete (2/2) 1/1 true" for name, digest in entries]
    (tmp_path / "checked").write_text("\n".join(checked) + "\n")
    # Every image has two failed pulls.
    units = [
        f"Id=prepull-pull-{n}-{attempt}.service\nActiveState=failed\nSubState=failed\n\n"
        for n in range(200)
        for attempt in (1, 2)
    ]
    (tmp_path / "units").write_text("".join(units))
    output = image_status(tmp_path, [f"{name}@{digest}:v1" for name, digest in wanted])
    assert "NAMES " + "u" * 400 in output
    assert output[-1] == "END"
    # Run Command keeps 24,000 characters.
    assert len("\n".join(output)) < 24_000
    assert any(line.startswith("MORE ") for line in output)
