"""The documents `fingerprint` and `verify` on real nodes, and the faults that they find."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from localcloud.ssm import shell_script

from .clouds import start_cloud, stop_cloud, until
from .images import Pusher, busybox_layer, layer, random_layer
from .machines import CTR, HOST, QUICK, Machines

DOCUMENTS = Path(__file__).parents[2] / "infra/documents"


def run_document(machines: Machines, instance: str, name: str, **parameters: str) -> list[str]:
    """Runs a document until its work has ended, and returns its lines."""
    document = yaml.safe_load((DOCUMENTS / f"{name}.yaml").read_text())
    script, _ = shell_script(document, {key: [value] for key, value in parameters.items()})

    def ended() -> list[str]:
        status, output = machines.run(instance, script, 120)
        lines = output.splitlines()
        assert status == "Success" and lines[-1] == "END", output
        return [] if lines[0].startswith("RUNNING ") else lines[:-1]

    return until(ended, 240)


def main_image(machines: Machines, instance: str, reference: str) -> str:
    """Returns the name of an image by digest, with the tag, as a plan has it."""
    listed = machines.succeed(instance, f"{HOST} {CTR} images ls name=={reference}")
    digest = listed.splitlines()[1].split()[2]
    repository, _, tag = reference.rpartition(":")
    machines.succeed(instance, f"{HOST} {CTR} images tag {reference} {repository}@{digest}")
    return f"{repository}@{digest}:{tag}"


def odd_layer() -> bytes:
    return layer({"data/a b": b"x" * 5000, "data/new\nline": b"y", "data/back\\slash\t": b"z" * 70})


@dataclass
class Built:
    """A snapshot with its planned images and fingerprint."""

    machines: Machines
    snapshot: str
    images: str
    trees: str


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
    pusher = Pusher(machines.cloud)
    base = busybox_layer()
    references = [
        pusher.push("team/first:1", [base, random_layer("first"), odd_layer()]),
        pusher.push("team/second:1", [base, random_layer("second", 3_000_000)]),
    ]
    builder = machines.launch()
    machines.await_ready(builder)
    for reference in references:
        assert "Result=success" in machines.pull(builder, reference)
    images = " ".join(main_image(machines, builder, reference) for reference in references)
    (line,) = run_document(machines, builder, "fingerprint", Level="full")
    snapshot, _ = machines.finish(builder)
    machines.terminate(builder)
    return Built(machines, snapshot, images, line.split()[3])


def start(built: Built, snapshot: str) -> str:
    node = built.machines.launch(data={"SnapshotId": snapshot, "VolumeSize": 2})
    built.machines.await_ready(node)
    return node


def verify(built: Built, node: str, level: str) -> list[str]:
    """Returns the result of a verification, without counts and digests of the healthy parts."""
    lines = run_document(
        built.machines, node, "verify", Images=built.images, Level=level, Trees=built.trees
    )
    healthy = [re.sub(r"^((BLOBS|TREES|STARTED) ).*", r"\1…", line) for line in lines]
    return [line for line in healthy if line not in HEALTHY]


HEALTHY = ('SNAPSHOTTER ACTIVE_SNAPSHOTTER="overlayfs"', "MOUNT clean", "NAMES uuuu", "BLOBS …", "TREES …", "STARTED …")
FAULTS = {
    "missing-blob": (["NAMES uuii", "BAD-BLOB LAYER missing"], ["NAMES uuii", "BAD-BLOB LAYER missing"]),
    "short-blob": (["BAD-BLOB LAYER size"], ["BAD-BLOB LAYER size"]),
    "flipped-byte": ([], ["BAD-BLOB LAYER digest"]),
    "zeroed-file": ([], ["BAD-TREE TREE content"]),
    "empty-file": (["BAD-TREE TREE different COUNTS"], ["BAD-TREE TREE different COUNTS"]),
    "missing-directory": (["BAD-TREE TREE different COUNTS"], ["BAD-TREE TREE different COUNTS"]),
    "missing-tree": (["BAD-TREE TREE missing", "NOT"], ["BAD-TREE TREE missing", "NOT"]),
    "other-database": (["NAMES ----"], []),
    "other-snapshotter": (["NAMES ----"], []),
    "dirty-log": (["MOUNT recovered"], ["MOUNT recovered"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(built: Built, fault: str) -> None:
    machines = built.machines
    snapshot = machines.ec2.copy_snapshot(SourceSnapshotId=built.snapshot, SourceRegion="eu-west-1")["SnapshotId"]
    until(lambda: machines.snapshot_state(snapshot) == "completed", 30)
    assert machines.cloud.control("POST", f"snapshots/{snapshot}/damage", {"kind": fault}) == {}
    node = start(built, snapshot)
    try:
        found = [verify(built, node, "records"), verify(built, node, "full")]
    finally:
        machines.terminate(node)
    print(found)
    assert 0
