"""Simulated nodes: the same commands, on a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import RunningCloud, unique
from .machines import CTR, HOST, Machines, Pusher, busybox_layer, random_layer
from .test_nodes_real import QUICK, SCRUB, SECRETS


@pytest.fixture
def machines(cloud: RunningCloud) -> Machines:
    cloud.control("POST", "settings", QUICK)
    return Machines(cloud)


@pytest.fixture
def instance(machines: Machines) -> Iterator[str]:
    instance_id = machines.launch()
    machines.await_ready(instance_id)
    yield instance_id
    machines.terminate(instance_id)
    assert machines.cloud.control("GET", "leftovers")["processes"] == []


def test_a_simulated_build_ends_in_a_snapshot_that_needs_no_pull(
    machines: Machines, instance: str
) -> None:
    tag = unique("sim")
    reference = Pusher(machines.cloud).push(
        f"team/{tag}:1", [busybox_layer(), random_layer(tag)], platforms=("amd64", "arm64")
    )
    assert "Result=success" in machines.pull(instance, reference)
    checked = machines.succeed(instance, f"{HOST} {CTR} images check")
    assert reference in checked
    assert "complete (4/4)" in checked
    machines.succeed(instance, SCRUB)
    machines.await_state(instance, "stopped")
    snapshot = machines.snapshot(instance)
    found = machines.files(snapshot)
    assert [path for path in found if path.startswith(SECRETS)] == []
    assert "/local/var/lib/containerd/simulated.json" in found

    worker = machines.launch(data={"SnapshotId": snapshot, "VolumeSize": 3})
    machines.await_ready(worker)
    started = machines.start_container(worker, reference)
    assert (started["present"], started["requests"], started["simulated"]) == (True, 0, True)
    machines.terminate(worker)


def test_removing_an_image_frees_only_its_own_layers(machines: Machines, instance: str) -> None:
    base, name = random_layer("shared"), unique("rm")
    pusher = Pusher(machines.cloud)
    first = pusher.push(f"team/{name}:1", [base, random_layer("one")])
    second = pusher.push(f"team/{name}:2", [base, random_layer("two")])
    for reference in (first, second):
        machines.pull(instance, reference)
    machines.succeed(instance, f"{HOST} {CTR} images rm {first}")
    ready = machines.succeed(instance, f"{HOST} {CTR} images check --quiet")
    assert ready.split() == [second]


def test_an_empty_simulated_node_really_downloads(machines: Machines, instance: str) -> None:
    name = unique("cold")
    reference = Pusher(machines.cloud).push(f"team/{name}:1", [random_layer(name)])
    started = machines.start_container(instance, reference)
    assert started["present"] is False
    assert started["pulled_bytes"] > 300_000


def test_a_simulated_host_touches_no_file_of_the_machine(
    machines: Machines, instance: str, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    for command in (
        f"rm -rf {tmp_path}",
        f"find {tmp_path} -delete",
        f"rm -rf ../../../../..{precious}",
        f"bash -c 'rm -rf {tmp_path}'",
    ):
        for place in (HOST, "apiclient exec -T admin", ""):
            machines.run(instance, f"{place} {command}")
            assert precious.read_text() == "keep", (place, command)


def test_the_volume_has_its_nominal_size(machines: Machines, instance: str) -> None:
    size, used = (
        machines.succeed(instance, f"{HOST} df -B1 --output=size,used /local")
        .splitlines()[-1]
        .split()
    )
    assert int(size) == 2 << 30
    assert 0 < int(used) < 1 << 20
