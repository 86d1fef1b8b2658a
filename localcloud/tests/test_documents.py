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
    ("pull-images", "Images"): (
        "registry.example.com:5000/api@sha256:0:v1 docker.io/library/a@sha256:0"
    ),
    ("pull-images", "Changes"): "none pull-pinned,1-1,0-1 unpin-name,docker.io/b:1 remove-stale",
    ("pull-images", "WaitSeconds"): "15",
    ("verify", "Images"): "registry.example.com:5000/api@sha256:0:v1 docker.io/library/a@sha256:0",
    ("verify", "Level"): "full",
    ("verify", "Trees"): "0123456789abcdef" * 4,
}

# Every ASCII character with a meaning in a shell, and every control character.
METACHARACTERS = [c for c in map(chr, range(128)) if not re.match(r"[A-Za-z0-9 ,.:/@_%+=-]", c)]


def accepts(document: str, name: str, value: str) -> bool:
    declared = DOCUMENTS[document]["parameters"]
    given = {other: [SAMPLES[document, other]] for other in declared} | {name: [value]}
    try:
        check_parameters(declared, given)
    except SsmError:
        return False
    return True


def test_every_document_is_checked() -> None:
    assert {document for document, _, _ in PARAMETERS} == {document for document, _ in SAMPLES}
    assert len(DOCUMENTS) == 5


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
  *" images rm "*)
    printf '%s\n' "$*" >>changes
    printf '%s\n' "$@"
    [ ! -e broken-removal ] || { echo "ctr: database is locked" >&2; exit 1; }
    # Without this file, it removes nothing.
    [ ! -e removes ] || sed -i '/^team./d' listed checked
    ;;
  "systemctl show"*) cat units ;;
  systemctl* | systemd-run* | *" images "*)
    printf '%s\n' "$*" >>changes
    [ ! -e broken ] || { printf '%01000d\n' 1 2 >&2; exit 1; }
    ;;
  journalctl*) printf 'level=fatal msg="%01500d"\n' 0 ;;
  df*) printf 'size used\n1000 300\n' ;;
esac
"""


def pull_images(directory: Path, names: list[str], changes: str = "none") -> list[str]:
    """Returns the output of `pull-images` for the lists in the directory.

    The commands that change something are in the file `changes` there.
    """
    for file in ("units", "listed", "checked", "changes"):
        (directory / file).touch()
    for name, script in (("apiclient", APICLIENT), ("sheltie", SHELTIE)):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    parameters = {"Images": [" ".join(names)], "Changes": [changes], "WaitSeconds": ["9"]}
    check_parameters(DOCUMENTS["pull-images"]["parameters"], parameters)
    script, _ = shell_script(DOCUMENTS["pull-images"], parameters)
    environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment, capture_output=True, check=True
    )
    return run.stdout.decode().splitlines()


def test_pull_images_tells_the_states_of_names_apart(tmp_path: Path) -> None:
    a, b = (f"sha256:{digit * 64}" for digit in "ab")
    pinned = "io.cri-containerd.pinned=pinned"
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
    assert "NAMES UUpmi-U" in pull_images(tmp_path, names)


def test_status_of_200_images_fits_into_the_output(tmp_path: Path) -> None:
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
    output = pull_images(tmp_path, [f"{name}@{digest}:v1" for name, digest in wanted])
    assert "NAMES " + "u" * 400 in output
    assert output[-1] == "END"
    # Run Command keeps 24,000 characters.
    assert len("\n".join(output)) < 24_000
    assert "STALE 200" in output


A, B, C, D = (f"sha256:{digit * 64}" for digit in "abcd")
IMAGES = [f"r/a@{A}:1", f"r/b@{B}", f"r/a@{A}:2"]


def unit(name: str, active: str, sub: str, job: str = "") -> str:
    return f"Id=prepull-pull-{name}.service\nActiveState={active}\nSubState={sub}\nJob={job}\n\n"


def hold(directory: Path, names: list[tuple[str, str]]) -> None:
    """Lets containerd list usable images."""
    listed = "".join(f"{name} t {digest} 1 p -\n" for name, digest in names)
    (directory / "listed").write_text(f"REF TYPE DIGEST SIZE PLATFORMS LABELS\n{listed}")
    checked = "".join(f"{name} t {digest} complete (2/2) 1/1 true\n" for name, digest in names)
    (directory / "checked").write_text(checked)


def changed(directory: Path) -> list[str]:
    return (directory / "changes").read_text().splitlines()


def test_pull_follows_others_and_sets_every_tag(tmp_path: Path) -> None:
    (tmp_path / "units").write_text(unit("1-1", "active", "exited"))
    output = pull_images(tmp_path, IMAGES, "pull,1-1 pull-pinned,0-2,1-1,4-1")
    assert output[:2] == ["FINISHED 1", "UNIT 1 1 active exited"]
    # The second image has a unit.
    (started,) = changed(tmp_path)
    assert started.startswith("systemd-run --quiet --no-block --unit=prepull-pull-0-2.service ")
    for word in (
        "--property=Type=oneshot",
        "--property=RemainAfterExit=yes",
        "--property=After=prepull-pull-1-1.service prepull-pull-4-1.service",
        f"images tag --force r/a@{A} r/a:1",
        f"images tag --force r/a@{A} r/a:2",
        "images label r/a:1 io.cri-containerd.pinned=pinned",
        f"--source=r/a@{A}",
        "--label=io.cri-containerd.pinned=pinned",
    ):
        assert word in started, started


def test_retry_of_a_pull_starts_once(tmp_path: Path) -> None:
    first = unit("0-1", "failed", "failed")
    (tmp_path / "units").write_text(first)
    pull_images(tmp_path, IMAGES, "pull,0-2")
    assert "--unit=prepull-pull-0-2.service" in changed(tmp_path)[0]
    (tmp_path / "changes").unlink()
    (tmp_path / "units").write_text(unit("0-2", "active", "exited") + first)
    assert "UNIT 0 2 active exited" in pull_images(tmp_path, IMAGES, "pull,0-1 pull,0-2")
    assert changed(tmp_path) == []


def test_waiting_pull_is_queued_and_waited_for(tmp_path: Path) -> None:
    units = unit("0-1", "activating", "start-post", "7") + unit("1-1", "inactive", "dead", "9")
    (tmp_path / "units").write_text(units)
    output = pull_images(tmp_path, IMAGES)
    assert {"FINISHED 0", "UNIT 0 1 activating start-post", "UNIT 1 1 queued dead"} <= set(output)
    (waited,) = changed(tmp_path)
    assert waited.startswith("systemd-run --quiet --wait --collect --unit=prepull-wait-")
    assert "prepull-pull-0-1.service" in waited and "prepull-pull-1-1.service" in waited


@pytest.mark.parametrize(
    ("units", "removes"),
    [
        ("", True),
        (unit("0-1", "active", "exited"), True),
        (unit("0-1", "failed", "failed") + unit("0-2", "active", "exited"), True),
        (unit("0-1", "failed", "failed"), False),
        (unit("0-1", "activating", "start", "7"), False),
        (unit("0-1", "active", "exited") + unit("1-1", "inactive", "dead", "9"), False),
    ],
)
def test_removal_needs_successful_pulls(tmp_path: Path, units: str, removes: bool) -> None:
    (tmp_path / "units").write_text(units)
    hold(tmp_path, [("r/old:1", A), ("r/old:2", A), ("r/older:1", B), (f"r/new@{C}", C)])
    output = pull_images(tmp_path, [f"r/new@{C}"], "remove-stale")
    removals = [line.partition(" images ")[2] for line in changed(tmp_path) if " rm " in line]
    assert [sorted(line.split()) for line in removals] == (
        [["--sync", "r/old:1", "r/old:2", "r/older:1", "rm"]] if removes else []
    )
    # The stand-in for `ctr` removes nothing.
    assert output[-4:-2] == ["REMOVED 0", "STALE 2"]


@pytest.mark.parametrize("names", [[], [(f"r/new@{C}", C)], [(f"r/new@{C}", C), ("r/new:1", A)]])
def test_removal_needs_every_planned_name(tmp_path: Path, names: list[tuple[str, str]]) -> None:
    hold(tmp_path, [("r/old:1", A), *names])
    output = pull_images(tmp_path, [f"r/new@{C}:1"], "remove-stale")
    assert not any(" rm " in line for line in changed(tmp_path))
    assert output[-4:-2] == ["REMOVED 0", "STALE 1"]


def test_large_removal_fits_into_the_output(tmp_path: Path) -> None:
    (tmp_path / "removes").touch()
    stale = [(f"team/{'p' * 110}/{n:03}:v1", f"sha256:{n:064x}") for n in range(200)]
    hold(tmp_path, [*stale, (f"r/new@{C}", C)])
    output = pull_images(tmp_path, [f"r/new@{C}"], "remove-stale")
    assert output[-4:-2] == ["REMOVED 200", "STALE 0"]
    assert len("\n".join(output)) < 24_000


def test_failed_removal_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken-removal").touch()
    hold(tmp_path, [("r/old:1", A), (f"r/new@{C}", C)])
    output = pull_images(tmp_path, [f"r/new@{C}"], "remove-stale")
    assert "FAILED remove-stale ctr: database is locked" in output
    assert output[-4:-2] == ["REMOVED 0", "STALE 1"]


def test_images_of_the_plan_and_of_the_node_are_not_stale(tmp_path: Path) -> None:
    pause = "localhost/kubernetes/pause:0.1.0"
    older_pause = "602401143452.dkr.ecr.eu-west-1.amazonaws.com/eks/pause:3.10"
    alias = "ecr.aws/arn:aws:ecr:eu-west-1:123456789012:repository/r/a:1"
    kept = [(f"r/a@{A}", A), ("r/a:1", A), (f"sha256:{'1' * 64}", A), (alias, A)]
    kept += [(pause, B), (f"sha256:{'2' * 64}", B), (older_pause, C)]
    stale = [("team/pause-button:1", D), (f"sha256:{'4' * 64}", D)]
    for names, count in ((kept, 0), (kept + stale, 1)):
        hold(tmp_path, names)
        output = pull_images(tmp_path, [f"r/a@{A}:1"], "remove-stale")
        assert f"STALE {count}" in output
        assert not any(line.startswith("STALE sha256") for line in output)
    (removal,) = [line for line in changed(tmp_path) if " rm " in line]
    assert sorted(removal.split()[-2:]) == sorted(name for name, _ in stale)


def test_first_failed_changes_are_named_within_the_output(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    images = [f"r/{n:03}@{A}:1" for n in range(200)]
    changes = [f"tag,{n}" for n in range(200)]
    output = pull_images(tmp_path, images, " ".join([*changes, "remove-stale"]))
    failed = [line for line in output if line.startswith("FAILED ")]
    assert failed == [f"FAILED tag,{n} {'0' * 500}" for n in range(3)]
    assert output[-1] == "END"
    assert not any("images rm" in line for line in changed(tmp_path))


def test_changes_refer_to_positions(tmp_path: Path) -> None:
    pull_images(tmp_path, IMAGES, "tag,2 pin,0 unpin,1 unpin-name,ecr.aws/arn:x")
    words = [line.partition(" images ")[2] for line in changed(tmp_path)]
    assert words == [
        f"tag --force r/a@{A} r/a:2",
        f"label r/a@{A} io.cri-containerd.pinned=pinned",
        "label r/a:1 io.cri-containerd.pinned=pinned",
        f"label r/b@{B} io.cri-containerd.pinned=",
        "label ecr.aws/arn:x io.cri-containerd.pinned=",
    ]


# A host whose units are in the file `units`, with an empty volume.
UNITS_SHELTIE = """#!/bin/bash
case "$*" in
  "systemctl show --property=LoadState "*) echo LoadState=loaded ;;
  "systemctl show"*) cat units ;;
  "systemctl "* | "rm "*) printf '%s\n' "$*" >>changes ;;
  "journalctl "*"-u "*) echo "the journal of ${*: -1}" ;;
  "cat /run/prepull/"*list) cat host-list ;;
  "cat /run/prepull/"*) ;;
  "find /run/prepull "*) cat host-sums ;;
  "find "*"-printf .") cat host-blobs ;;
  "tee "*) cat >written ;;
  "sha256sum "*) sha256sum written ;;
esac
"""


def on_units(
    directory: Path, document: str, level: str, units: str
) -> subprocess.CompletedProcess[str]:
    """Runs a document on two vCPUs, where `units` have been started."""
    scripts = {
        "apiclient": APICLIENT,
        "sheltie": UNITS_SHELTIE,
        "nproc": "#!/bin/bash\necho 2\n",
        "sleep": "#!/bin/bash\n",
    }
    for name, script in scripts.items():
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    (directory / "units").write_text(units)
    for file in ("host-list", "host-sums", "host-blobs", "changes"):
        (directory / file).touch()
    values = {name: SAMPLES[document, name] for name in DOCUMENTS[document]["parameters"]}
    parameters = {name: [value] for name, value in (values | {"Level": level}).items()}
    script, _ = shell_script(DOCUMENTS[document], parameters)
    # The script changes to a directory of its own.
    script = script.replace('cd "$(mktemp -d)"', "true")
    environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment, capture_output=True, text=True
    )


def ended(name: str, sub: str = "exited", result: str = "success", status: int = 0) -> str:
    """Returns a unit in the order of systemd, which is not that of the request."""
    identity = f"Id=prepull-{name}.service\nSubState={sub}\n"
    return f"Result={result}\nExecMainStatus={status}\n{identity}\n"


ALL_ENDED = ended("list") + ended("sums-0") + ended("sums-1")
PARTIAL = [
    pytest.param(ended("sums-1", "failed", "signal", 9), id="killed"),
    # A process that ends by SIGTERM is a success for systemd.
    pytest.param(ended("sums-1", "exited", "success", 15), id="terminated"),
    pytest.param(ended("sums-1", "failed", "oom-kill", 9), id="out of memory"),
    pytest.param(ended("sums-1", "failed", "exit-code", 203), id="no program"),
    pytest.param(ended("sums-1", "dead", "success", 0), id="never started"),
]


@pytest.mark.parametrize("document", ["fingerprint", "verify"])
@pytest.mark.parametrize("unit", PARTIAL)
def test_unit_that_did_not_end_fails_the_command(tmp_path: Path, document: str, unit: str) -> None:
    run = on_units(tmp_path, document, "full", ended("list") + ended("sums-0") + unit)
    assert run.returncode == 1
    assert "END" not in run.stdout
    last = run.stderr.splitlines()[-1]
    assert last.startswith("not all of 3 units ended their work: prepull-sums-1.service "), last
    assert "the journal of prepull-sums-1.service" in run.stderr
    # A repeated command starts it again.
    changes = changed(tmp_path)
    assert changes[0] == "rm -f /run/prepull/sums-1"
    assert changes[-1] == "systemctl reset-failed prepull-sums-1.service"
    assert not any("sums-0" in line or "list" in line for line in changes)


@pytest.mark.parametrize("document", ["fingerprint", "verify"])
def test_missing_unit_fails_the_command(tmp_path: Path, document: str) -> None:
    run = on_units(tmp_path, document, "full", ended("list") + ended("sums-0"))
    assert run.returncode == 1
    assert "not all of 3 units ended their work" in run.stderr


def test_fingerprint_needs_units_without_an_error(tmp_path: Path) -> None:
    run = on_units(tmp_path, "fingerprint", "full", ALL_ENDED)
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == ["TREES", "END"]
    unreadable = ended("list") + ended("sums-0") + ended("sums-1", "failed", "exit-code", 1)
    assert on_units(tmp_path, "fingerprint", "full", unreadable).returncode == 1


def test_verify_reports_files_that_cannot_be_read(tmp_path: Path) -> None:
    unreadable = ended("list") + ended("sums-0") + ended("sums-1", "failed", "exit-code", 1)
    for units in (ALL_ENDED, unreadable):
        run = on_units(tmp_path, "verify", "full", units)
        assert run.returncode == 0, run.stderr
        keywords = {line.split()[0] for line in run.stdout.splitlines()}
        assert keywords >= {"SNAPSHOTTER", "NAMES", "BLOBS", "TREES", "END"}, run.stdout


def test_progress_counts_blobs_in_both_numbers(tmp_path: Path) -> None:
    file, folder = b"5 f 644 0 0 1 ./1/fs/a -> \0", b"0 d 755 0 0 2 ./1/fs/b -> \0"
    (tmp_path / "host-list").write_bytes(file + folder)
    (tmp_path / "host-sums").write_bytes(b"0  ./1/fs/a\0" + b"1  /blobs/00\0" + b"2  /blobs/01\0")
    (tmp_path / "host-blobs").write_text("..")
    units = ended("list") + ended("sums-0", "running") + ended("sums-1")
    run = on_units(tmp_path, "verify", "full", units)
    assert run.stdout.splitlines() == ["RUNNING 3 3", "END"], run.stderr


@pytest.mark.parametrize("vcpus", [1, 2, 3, 8, 192])
def test_each_blob_has_one_unit(tmp_path: Path, vcpus: int) -> None:
    (script,) = DOCUMENTS["verify"]["mainSteps"][0]["inputs"]["runCommand"]
    lines = script[script.index("shards=0\n") : script.index("if ! await_units")]
    record = "start() { shift; printf '%s\\0' \"$@\" >>calls; printf '\\1' >>calls; }"
    nproc = f"nproc() {{ echo {vcpus}; }}"
    setting = "level=full blobs=/x/blobs/sha256"
    run = ["bash", "-euc", "\n".join([record, nproc, setting, lines])]
    subprocess.run(run, cwd=tmp_path, check=True)
    calls = (tmp_path / "calls").read_text().split("\1")[:-1]
    assert len(calls) == min(vcpus, 64)
    blobs, trees = tmp_path / "blobs/sha256", tmp_path / "snapshots"
    # An image can hold images.
    for folder in (blobs, trees / "7/fs/blobs/sha256"):
        folder.mkdir(parents=True)
        for n in range(256):
            (folder / f"{n:02x}{n:062x}").touch()
    for n in range(100):
        (trees / f"7/fs/{'f' * (n + 1)}").touch()
    found: list[str] = []
    for call in calls:
        words = [word.replace("/x/blobs", str(tmp_path / "blobs")) for word in call.split("\0")]
        command = [*words[: words.index("-exec")], "-print"]
        here = subprocess.run(command, cwd=trees, capture_output=True, text=True, check=True)
        paths = here.stdout.splitlines()
        assert sum(path.startswith("/") for path in paths) >= 256 // len(calls)
        found += paths
    assert len(found) == len(set(found)) == 256 + 256 + 100
