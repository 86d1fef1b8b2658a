"""Simulated nodes: the same commands, on a directory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from localcloud.ssm import shell_script

from .clouds import unique
from .images import Pusher, busybox_layer, random_layer
from .machines import CTR, HOST, Machines
from .test_verification import DOCUMENTS, Built, damage, planned, run_document, verify


@pytest.fixture
def instance(machines: Machines) -> Iterator[str]:
    instance_id = machines.launch()
    machines.await_ready(instance_id)
    yield instance_id
    machines.terminate(instance_id)
    assert machines.cloud.control("GET", "leftovers")["processes"] == []


def test_simulated_build_ends_in_snapshot_without_pulls(machines: Machines, instance: str) -> None:
    tag = unique("sim")
    reference = Pusher(machines.cloud).push(
        f"team/{tag}:1", [busybox_layer(), random_layer(tag)], platforms=("amd64", "arm64")
    )
    assert "Result=success" in machines.pull(instance, reference)
    checked = machines.succeed(instance, f"{HOST} {CTR} images check")
    assert reference in checked
    assert "complete (4/4)" in checked
    snapshot, found = machines.finish(instance)
    assert "/local/var/lib/containerd/simulated.json" in found

    worker = machines.launch(data={"SnapshotId": snapshot, "VolumeSize": 3})
    machines.await_ready(worker)
    started = machines.start_pod(worker, reference)
    assert (started["present"], started["requests"], started["simulated"]) == (True, 0, True)
    machines.terminate(worker)


def test_verification_finds_damaged_blobs(machines: Machines, instance: str) -> None:
    tag = unique("verify")
    reference = Pusher(machines.cloud).push(f"team/{tag}:1", [random_layer(tag)])
    images = planned(machines, instance, reference)
    (line,) = run_document(machines, instance, "fingerprint", Level="full")
    assert line.startswith("TREES 0 0 "), "nothing is unpacked"
    snapshot, _ = machines.finish(instance)
    built = Built(snapshot, images, line.split()[3])
    for kind, expected in (
        ("", []),
        ("flipped-byte", ["BAD-BLOB sha256:… digest"]),
        ("missing-blob", ["NAMES ii"]),
    ):
        source = damage(machines, snapshot, kind) if kind else snapshot
        node = machines.launch(data={"SnapshotId": source, "VolumeSize": 3})
        machines.await_ready(node)
        found = verify(machines, node, built, "full")
        short = [re.sub("sha256:[0-9a-f]+", "sha256:…", line) for line in found]
        assert set(expected) < set(short), kind
        assert "MOUNT unknown" in short
        machines.terminate(node)


def test_killed_unit_fails_once_and_is_repeated(machines: Machines, instance: str) -> None:
    # The list of an empty directory has this name.
    state = f"trees-{hashlib.sha256().hexdigest()[:16]}-list"
    machines.succeed(instance, f"{HOST} mkdir -p /run/prepull")
    unit, output = (
        f"prepull-{state}.service",
        f"--property=StandardOutput=file:/run/prepull/{state}",
    )
    machines.succeed(instance, f"{HOST} systemd-run --unit={unit} {output} sleep 60")
    machines.succeed(instance, f"{HOST} systemctl kill --signal=KILL {unit}")
    script, _ = shell_script(
        yaml.safe_load((DOCUMENTS / "fingerprint.yaml").read_text()), {"Level": ["records"]}
    )
    status, said = machines.run(instance, script)
    assert status == "Failed"
    assert f"not all of 1 units ended their work: {unit} failed signal 9" in said
    (line,) = run_document(machines, instance, "fingerprint", Level="records")
    assert line.startswith("TREES 0 0 ")


def test_snapshot_loses_a_deleted_file(machines: Machines, instance: str) -> None:
    tag = unique("lose")
    machines.pull(instance, Pusher(machines.cloud).push(f"team/{tag}:1", [random_layer(tag)]))
    snapshot, found = machines.finish(instance)
    lost = next(path for path in found if path.endswith("/simulated.json"))
    assert machines.lose(snapshot, lost) == {}
    assert set(found) - set(machines.files(snapshot)) == {lost}
    assert machines.lose(snapshot, lost)["status"] == 404


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


def test_removal_skips_missing_image(machines: Machines, instance: str) -> None:
    name = unique("rm")
    reference = Pusher(machines.cloud).push(f"team/{name}:1", [random_layer(name)])
    machines.pull(instance, reference)
    said = machines.succeed(instance, f"{HOST} {CTR} images rm --sync absent:1 {reference}")
    assert "absent:1: image not found" in said
    assert machines.succeed(instance, f"{HOST} {CTR} images ls --quiet") == ""


def test_failed_simulated_pull_has_reason_of_a_real_one(machines: Machines, instance: str) -> None:
    host = machines.cloud.ready["registries"]["private"]["host"]
    words = machines.pull(instance, f"{host}/team/none:1")
    assert "Result=exit-code\nExecMainStatus=1\nSubState=failed" in words
    assert words.count("before retrying") == 5
    assert "level=fatal" in words.splitlines()[-3], words
    assert "not found" in words.splitlines()[-3], words


def test_corrupt_layer_fails_pull(machines: Machines, instance: str) -> None:
    pusher, name = Pusher(machines.cloud), unique("corrupt")
    pusher.image(f"team/{name}", [random_layer(name)], tag="1", pack=lambda _: b"not gzip")
    words = machines.pull(instance, f"{pusher.place['host']}/team/{name}:1")
    assert "Result=exit-code" in words
    assert "failed to extract layer" in words, words
    assert machines.succeed(instance, f"{HOST} {CTR} images ls --quiet") == ""


def test_full_disk_fails_pull_as_containerd_does(machines: Machines) -> None:
    name = unique("full")
    reference = Pusher(machines.cloud).push(f"team/{name}:1", [random_layer(name)])
    machines.cloud.control("POST", f"settings?cache={name}", {"disk_full_after_bytes": 100_000})
    tags = [{"Key": "prepull:cache", "Value": name}]
    instance = machines.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
    machines.await_ready(instance)
    words = machines.pull(instance, reference)
    assert "Result=exit-code" in words
    assert "level=fatal" in words.splitlines()[-3], words
    assert "no space left on device" in words.splitlines()[-3], words
    shown = machines.succeed(instance, f"{HOST} df -B1 --output=size,used,avail /local")
    size, used, available = shown.splitlines()[-1].split()
    assert (used, available) == (size, "0")
    machines.terminate(instance)


def test_registry_failure_during_pull_fails_it_until_recovery(
    machines: Machines, instance: str
) -> None:
    pusher, name = Pusher(machines.cloud), unique("down")
    failing = pusher.push(f"team/{name}:1", [random_layer(name)])
    other = pusher.push(f"team/{unique('up')}:1", [random_layer("up")])
    down = {"fail_after_bytes": 100_000, "repositories": f"team/{name}"}
    machines.cloud.control("POST", "registries/private", down)
    words = machines.pull(instance, failing)
    assert "Result=exit-code" in words
    assert "unexpected EOF" in words, words
    left = machines.cloud.control("GET", "registries/private")["bytes_left"]
    assert left == {f"team/{name}": 0}
    assert "Result=success" in machines.pull(instance, other)

    machines.cloud.control("POST", "registries/private", down | {"fail_after_bytes": None})
    assert "Result=success" in machines.pull(instance, failing)


def test_power_cut_stops_simulated_node(machines: Machines, instance: str) -> None:
    machines.cloud.control("POST", f"nodes/{instance}/power-cut")
    machines.await_state(instance, "stopped")
    machines.ec2.start_instances(InstanceIds=[instance])
    machines.await_ready(instance)


def test_empty_simulated_node_downloads_images(machines: Machines, instance: str) -> None:
    name = unique("cold")
    reference = Pusher(machines.cloud).push(f"team/{name}:1", [random_layer(name)])
    started = machines.start_pod(instance, reference)
    assert started["present"] is False
    assert started["pulled_bytes"] > 300_000


def test_simulated_host_keeps_files_of_machine(
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


def test_volume_has_its_nominal_size(machines: Machines, instance: str) -> None:
    size, used = (
        machines.succeed(instance, f"{HOST} df -B1 --output=size,used /local")
        .splitlines()[-1]
        .split()
    )
    assert int(size) == 2 << 30
    assert 0 < int(used) < 1 << 20


QUEUE = (
    f"{HOST} systemd-run --quiet --no-block --property=Type=oneshot --property=RemainAfterExit=yes"
)


def states(machines: Machines, instance: str, *units: str) -> list[list[str]]:
    """Returns ActiveState, SubState and whether there is a job."""
    show = f"{HOST} systemctl show --property=ActiveState,SubState,Job"
    shown = machines.succeed(instance, f"{show} {' '.join(units)}")
    lines = [line.partition("=") for line in shown.split("\n") if line]
    values = ["job" if name == "Job" and value else value for name, _, value in lines]
    return [values[at : at + 3] for at in range(0, len(values), 3)]


def test_queued_unit_starts_after_failure_of_another(machines: Machines, instance: str) -> None:
    machines.succeed(
        instance,
        f"{QUEUE} --unit=first sleep 1\n"
        # Without an argument, it fails.
        f"{QUEUE} --unit=second --property=After=first.service rm\n"
        f"{QUEUE} --unit=third '--property=After=second.service absent.service' true\n",
    )
    assert states(machines, instance, "first", "second", "third") == [
        ["activating", "start", "job"],
        ["inactive", "dead", "job"],
        ["inactive", "dead", "job"],
    ]
    # A unit after the others starts at their end.
    machines.succeed(
        instance,
        f"{HOST} systemd-run --wait --collect --property=Type=oneshot --unit=waiter"
        " --property=After=third.service true",
    )
    assert states(machines, instance, "first", "second", "third", "waiter") == [
        ["active", "exited", ""],
        ["failed", "failed", ""],
        ["active", "exited", ""],
        ["inactive", "dead", ""],
    ]


def test_stop_cancels_a_queued_unit(machines: Machines, instance: str) -> None:
    said = machines.succeed(
        instance,
        f"{QUEUE} --unit=slow sleep 30\n"
        f"timeout 1 {HOST} systemd-run --quiet --wait --collect --property=Type=oneshot"
        " --property=After=slow.service --unit=waiter touch /local/late; echo code=$?\n"
        f"{HOST} systemctl stop waiter slow\n",
    )
    assert "code=124" in said
    assert states(machines, instance, "waiter") == [["inactive", "dead", ""]]
    assert machines.run(instance, f"{HOST} ls /local/late")[0] == "Failed"


def test_start_post_runs_after_success_only(machines: Machines, instance: str) -> None:
    post = "--property=ExecStartPost"
    machines.succeed(
        instance,
        f"{QUEUE} --unit=good '{post}=-/usr/bin/false' '{post}=/usr/bin/touch /local/good' true\n"
        f"{QUEUE} --unit=bad '{post}=/usr/bin/touch /local/bad' false\n"
        f"{QUEUE} --unit=strict '{post}=/usr/bin/false' true\n"
        f"{HOST} systemd-run --wait --collect --property=Type=oneshot"
        " '--property=After=good.service bad.service strict.service' true",
    )
    assert states(machines, instance, "good", "bad", "strict") == [
        ["active", "exited", ""],
        ["failed", "failed", ""],
        ["failed", "failed", ""],
    ]
    assert machines.run(instance, f"{HOST} ls /local/good")[0] == "Success"
    assert machines.run(instance, f"{HOST} ls /local/bad")[0] == "Failed"
