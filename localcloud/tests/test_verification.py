"""The documents `fingerprint` and `verify` on real nodes, and the faults that they find."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from localcloud.ssm import shell_script

from .clouds import start_cloud, stop_cloud, until
from .images import Pusher, busybox_layer, random_layer
from .machines import CTR, HOST, QUICK, Machines

DOCUMENTS = Path(__file__).parents[2] / "infra/documents"
HEALTHY = {
    'SNAPSHOTTER ACTIVE_SNAPSHOTTER="overlayfs"',
    "MOUNT clean",
    "NAMES uuuu",
    "BLOBS …",
    "TREES …",
    "STARTED …",
}
NO_IMAGES = ["NAMES ----", "NOT-STARTED - no planned image is unpacked"]

# Faults of one volume, with the lines that differ from a healthy volume at the level `records`,
# and the further lines at the level `full`. BLOB is the largest layer, and TREE its number.
FAULTS: dict[tuple[str, ...], tuple[list[str], list[str]]] = {
    ("flipped-byte", "zeroed-file"): ([], ["BAD-BLOB BLOB digest", "BAD-TREE TREE content"]),
    ("short-blob", "empty-file", "dirty-log"): (
        [
            "MOUNT recovered",
            "BAD-BLOB BLOB size",
            "BAD-TREE TREE different 3 of 3 entries, 0 of 3000000 bytes",
        ],
        [],
    ),
    ("missing-blob", "missing-directory"): (
        [
            "BAD-BLOB BLOB missing",
            "BAD-TREE TREE different 1 of 3 entries, 0 of 3000000 bytes",
        ],
        [],
    ),
    ("missing-tree",): (["BAD-TREE TREE missing"], []),
    ("missing-database",): (NO_IMAGES, []),
    ("other-snapshotter",): (NO_IMAGES, []),
}


def odd_layer() -> bytes:
    """Returns a layer with names that shells and tools quote, links, and a whiteout."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        for name in ("odd/a b", "odd/new\nline", "odd/back\\slash\t", "odd/bin/.wh.echo"):
            member = tarfile.TarInfo(name.removeprefix("odd/bin/") if "wh" in name else name)
            if "wh" in name:
                member.name = "bin/.wh.echo"
            member.size = 70
            writer.addfile(member, io.BytesIO(b"z" * 70))
        for kind, target in ((tarfile.SYMTYPE, "a b"), (tarfile.LNKTYPE, "odd/a b")):
            member = tarfile.TarInfo(f"odd/link {kind!r}")
            member.type, member.linkname = kind, target
            writer.addfile(member)
    return tar.getvalue()


@dataclass
class Built:
    """A snapshot with its planned images and its fingerprint."""

    snapshot: str
    images: str
    trees: str


def run_document(machines: Machines, instance: str, name: str, **parameters: str) -> list[str]:
    """Runs a document until its work has ended, and returns its lines."""

    def ended() -> list[str]:
        lines = run_once(machines, instance, name, **parameters)
        return [] if lines[0].startswith("RUNNING ") else lines

    return until(ended, 120)


def run_once(machines: Machines, instance: str, name: str, **parameters: str) -> list[str]:
    document = yaml.safe_load((DOCUMENTS / f"{name}.yaml").read_text())
    script, _ = shell_script(document, {key: [value] for key, value in parameters.items()})
    status, output = machines.run(instance, script, 60)
    assert status == "Success", output
    *lines, last = output.splitlines()
    assert last == "END", output
    return lines


def planned(machines: Machines, instance: str, reference: str) -> str:
    """Pulls an image, tags it as a build does, and returns the word of a plan for it."""
    assert "Result=success" in machines.pull(instance, reference)
    listed = machines.succeed(instance, f"{HOST} {CTR} images ls name=={reference}")
    digest = listed.splitlines()[1].split()[2]
    repository, _, tag = reference.rpartition(":")
    machines.succeed(instance, f"{HOST} {CTR} images tag {reference} {repository}@{digest}")
    return f"{repository}@{digest}:{tag}"


def fingerprint(machines: Machines, instance: str, level: str) -> str:
    (line,) = run_document(machines, instance, "fingerprint", Level=level)
    keyword, trees, files, digest = line.split()
    assert keyword == "TREES" and int(trees) > 3 and int(files) > int(trees), line
    return digest


def verify(
    machines: Machines, node: str, built: Built, level: str, trees: str | None = None
) -> list[str]:
    """Returns the lines that differ from those of a healthy volume."""
    lines = run_document(
        machines, node, "verify", Images=built.images, Level=level, Trees=trees or built.trees
    )
    short = [re.sub(r"^(BLOBS|TREES|STARTED) \S+ .*|^(STARTED) .*", r"\1\2 …", x) for x in lines]
    assert {line.split()[0] for line in lines} >= {"MOUNT", "NAMES", "BLOBS", "TREES"}, lines
    return [line for line in short if line not in HEALTHY]


def copy(machines: Machines, snapshot: str) -> str:
    answer = machines.ec2.copy_snapshot(SourceSnapshotId=snapshot, SourceRegion="eu-west-1")
    until(lambda: machines.snapshot_state(answer["SnapshotId"]) == "completed", 30)
    return answer["SnapshotId"]


def damage(machines: Machines, snapshot: str, *kinds: str) -> str:
    damaged = copy(machines, snapshot)
    for kind in kinds:
        answer = machines.cloud.control("POST", f"snapshots/{damaged}/damage", {"kind": kind})
        assert answer == {}
    return damaged


def launch(machines: Machines, snapshot: str, architecture: str = "x86_64") -> str:
    data = {"SnapshotId": snapshot, "VolumeSize": 2}
    node = machines.launch(architecture, data)
    machines.await_ready(node)
    return node


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    cloud = start_cloud(tmp_path_factory.mktemp("state"))
    try:
        if cloud.ready["nodes"] != "real":
            pytest.skip(f"no real nodes here: {cloud.ready['why']}")
        cloud.control("POST", "settings", QUICK)
        yield Machines(cloud)
    finally:
        assert stop_cloud(cloud) == 0


@pytest.fixture(scope="module")
def built(machines: Machines) -> Built:
    pusher, base = Pusher(machines.cloud), busybox_layer()
    first = pusher.push("team/first:1", [base, random_layer("first"), odd_layer()])
    second = pusher.push("team/second:1", [base, random_layer("second", 3_000_000)])
    builder = machines.launch()
    machines.await_ready(builder)
    images = " ".join(planned(machines, builder, reference) for reference in (first, second))
    trees = fingerprint(machines, builder, "full")
    assert fingerprint(machines, builder, "full") == trees
    assert fingerprint(machines, builder, "records") != trees
    assert fingerprint(machines, builder, "full") == trees
    snapshot, found = machines.finish(builder)
    assert "/local/prepull/trees" in found
    machines.terminate(builder)
    return Built(snapshot, images, trees)


def test_healthy_snapshot_passes_while_containers_run(machines: Machines, built: Built) -> None:
    node = launch(machines, built.snapshot)
    assert verify(machines, node, built, "records") == []
    # Nodes start pods, and import the image of their sandboxes from their own release.
    started = machines.start_pod(node, built.images.split()[1].split("@")[0] + ":1")
    assert started["present"], started
    machines.succeed(node, f"{HOST} {CTR} images rm --sync localhost/kubernetes/pause:0.1.0")
    assert verify(machines, node, built, "full") == []
    assert verify(machines, node, built, "full") == []
    left = machines.succeed(node, f"{HOST} {CTR} containers ls")
    assert "prepull-verify" not in left
    machines.terminate(node)


def test_refreshed_snapshot_passes_after_removal(machines: Machines, built: Built) -> None:
    builder = launch(machines, built.snapshot)
    third = Pusher(machines.cloud).push("team/third:1", [busybox_layer(), random_layer("third")])
    third = planned(machines, builder, third)
    first, second = built.images.split()
    names = [first[:-2], first.partition("@")[0] + ":1"]
    machines.succeed(builder, f"{HOST} {CTR} images rm --sync {' '.join(names)}")
    label = "io.cri-containerd.pinned=pinned"
    machines.succeed(builder, f"{HOST} {CTR} images label {second[:-2]} {label}")
    trees = fingerprint(machines, builder, "records")
    snapshot, _ = machines.finish(builder)
    machines.terminate(builder)
    node = launch(machines, snapshot)
    refreshed = Built(snapshot, f"{second} {third}", trees)
    assert verify(machines, node, refreshed, "records") == []
    # The builder took no fingerprint of the content.
    assert verify(machines, node, refreshed, "full") == []
    refreshed.images = f"{first} {second}"
    assert verify(machines, node, refreshed, "records") == ["NAMES --uu"]
    machines.terminate(node)


def test_snapshot_without_fingerprint_passes(machines: Machines, built: Built) -> None:
    snapshot = copy(machines, built.snapshot)
    machines.lose(snapshot, "/local/prepull/trees")
    node = launch(machines, snapshot)
    assert verify(machines, node, built, "full", trees="none") == ["TREES none"]
    machines.terminate(node)


@pytest.mark.parametrize("faults", FAULTS)
def test_faults_are_found(machines: Machines, built: Built, faults: tuple[str, ...]) -> None:
    node = launch(machines, damage(machines, built.snapshot, *faults))
    records, content = FAULTS[faults]
    for level, expected in (("records", records), ("full", records + content)):
        found = verify(machines, node, built, level)
        short = [re.sub(r"^BAD-BLOB sha256:[0-9a-f]{64}", "BAD-BLOB BLOB", x) for x in found]
        short = [re.sub(r"^BAD-TREE \d+", "BAD-TREE TREE", line) for line in short]
        assert short == expected, level
    machines.terminate(node)


def test_node_with_unmountable_volume_never_answers(machines: Machines, built: Built) -> None:
    snapshot = damage(machines, built.snapshot, "unmountable")
    node = machines.launch(data={"SnapshotId": snapshot, "VolumeSize": 2})

    def console() -> str:
        return machines.ec2.get_console_output(InstanceId=node, Latest=True).get("Output", "")

    until(lambda: "Failed to mount Local Directory (/local)." in console(), 30)
    assert machines.state(node) == "running"
    assert not machines.is_online(node)
    machines.terminate(node)


def test_long_work_is_reported_as_running(machines: Machines, built: Built) -> None:
    node = launch(machines, built.snapshot)
    # The same unit, which takes longer than a command waits.
    output = "--property=StandardOutput=file:/run/prepull/list"
    machines.succeed(node, f"{HOST} mkdir /run/prepull")
    machines.succeed(node, f"{HOST} systemd-run --unit=prepull-list {output} sleep 60")
    parameters = {"Images": built.images, "Level": "records", "Trees": built.trees}
    (line,) = run_once(machines, node, "verify", **parameters)
    assert line.startswith("RUNNING 0 "), line
    machines.terminate(node)


def test_arm64_snapshot_passes(machines: Machines) -> None:
    pusher = Pusher(machines.cloud)
    reference = pusher.push("team/arm:1", [random_layer("arm")] * 3, platforms=("amd64", "arm64"))
    builder = machines.launch("arm64")
    machines.await_ready(builder)
    images = planned(machines, builder, reference)
    trees = run_document(machines, builder, "fingerprint", Level="full")[0].split()[3]
    snapshot, _ = machines.finish(builder)
    node = launch(machines, snapshot, "arm64")
    found = verify(machines, node, Built(snapshot, images, trees), "full")
    assert found == ["NAMES uu"]
    for instance in (builder, node):
        machines.terminate(instance)
