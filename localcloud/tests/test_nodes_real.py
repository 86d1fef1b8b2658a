"""Real nodes: builds on them, and nodes from their snapshots."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .clouds import start_cloud, stop_cloud, unique, until
from .images import Pusher, busybox_layer, random_layer
from .machines import CTR, HOST, QUICK, SCRUB, Machines


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    state = tmp_path_factory.mktemp("state")
    cloud = start_cloud(state)
    try:
        if cloud.ready["nodes"] != "real":
            pytest.skip(f"no real nodes here: {cloud.ready['why']}")
        cloud.control("POST", "settings", QUICK)
        yield Machines(cloud)
    finally:
        assert stop_cloud(cloud) == 0
    assert str(state) not in subprocess.check_output(["losetup", "--list"], text=True)
    assert str(state) not in Path("/proc/mounts").read_text()


@pytest.fixture
def instance(machines: Machines) -> Iterator[str]:
    instance_id = machines.launch()
    machines.await_ready(instance_id)
    yield instance_id
    machines.terminate(instance_id)
    left = machines.cloud.control("GET", "leftovers")
    assert left["processes"] == left["loop_devices"] == left["mounts"] == []


def test_node_from_snapshot_starts_images_without_pull(machines: Machines, instance: str) -> None:
    base = [busybox_layer(), random_layer("base")]
    private = Pusher(machines.cloud).push("team/tool:1", [*base, random_layer("tool")])
    machines.cloud.aws("ecr").create_repository(repositoryName="team/api")
    ecr = Pusher(machines.cloud, "ecr").push("team/api:v1", [*base, random_layer("api")])
    for reference in (private, ecr):
        pulled = machines.pull(instance, reference)
        assert "Result=success\nExecMainStatus=0\nSubState=exited" in pulled

    checked = machines.succeed(instance, f"{HOST} {CTR} images check --quiet").split()
    assert {private, ecr} < set(checked)
    assert [name for name in checked if name.startswith("ecr.aws/")] == []

    snapshot, found = machines.finish(instance)
    reason = machines.describe(instance)["StateReason"]["Code"]
    assert reason == "Client.InstanceInitiatedShutdown"
    assert "/local/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db" in found

    worker = machines.launch(data={"SnapshotId": snapshot, "VolumeSize": 3})
    machines.await_ready(worker)
    for reference in (private, ecr):
        started = machines.start_pod(worker, reference)
        assert started["output"] == "hello from amd64\n", started
        assert (started["present"], started["pulled_bytes"], started["requests"]) == (True, 0, 0)
        assert started["exit_code"] == 0
        assert not started["simulated"]
    sizes = machines.succeed(worker, f"{HOST} df -B1 --output=size /local").split()
    assert int(sizes[-1]) > 2.9 * 2**30, "the file system did not grow with the volume"
    machines.terminate(worker)


def test_old_release_gives_ecr_images_a_second_name(machines: Machines) -> None:
    machines.cloud.aws("ecr").create_repository(repositoryName="team/old")
    reference = Pusher(machines.cloud, "ecr").push("team/old:v1", [random_layer("old")])
    instance = machines.launch(ImageId=machines.image(version="1.53.0"))
    machines.await_ready(instance)
    assert "Result=success" in machines.pull(instance, reference)
    listed = machines.succeed(instance, f"{HOST} {CTR} images ls --quiet").split()
    assert "ecr.aws/arn:aws:ecr:eu-west-1:123456789012:repository/team/old:v1" in listed
    machines.terminate(instance)


def test_scrub_overwrites_the_blocks_of_secrets(machines: Machines, instance: str) -> None:
    machines.succeed(instance, f"{HOST} sync")
    before = machines.snapshot(instance)
    snapshot, _ = machines.finish(instance)
    assert machines.secrets(before) > 5
    assert machines.secrets(snapshot) == 0


def test_failed_scrub_shows_its_reason_on_the_console(machines: Machines) -> None:
    machines.cloud.control("POST", "settings", {"stuck_mount": True})
    instance = machines.launch()
    machines.await_ready(instance)
    machines.cloud.control("POST", "settings", {"stuck_mount": False})
    machines.succeed(instance, SCRUB)

    def console() -> str:
        answer = machines.ec2.get_console_output(InstanceId=instance, Latest=True)
        return answer.get("Output", "")

    until(lambda: "scrub ended" in console(), 30)
    reason, result = console().splitlines()[-2:]
    assert reason.endswith("/var/lib/kubelet/stuck’: Device or resource busy")  # noqa: RUF001
    assert result.endswith("scrub ended: exit-code")
    assert machines.state(instance) == "running"
    machines.terminate(instance)


def test_inaccurate_timer_starts_late(machines: Machines, instance: str) -> None:
    start = f"{HOST} systemd-run --on-active=0 --unit=late touch /local/late"
    soon = start.replace("late", "soon").replace("--on", "--timer-property=AccuracySec=1ms --on")
    machines.succeed(instance, start)
    machines.succeed(instance, soon)
    until(lambda: machines.run(instance, f"{HOST} test -e /local/soon")[0] == "Success", 5)
    assert machines.run(instance, f"{HOST} test -e /local/late")[0] == "Failed"


def test_unchanged_snapshot_differs_in_few_blocks(machines: Machines, instance: str) -> None:
    machines.pull(instance, Pusher(machines.cloud).push("team/blocks:1", [random_layer("blocks")]))
    snapshot, _ = machines.finish(instance)

    def blocks(query: str = "") -> int:
        return machines.cloud.control("GET", f"snapshots/{snapshot}/blocks{query}")["blocks"]

    assert blocks() > 0
    assert blocks(f"?base={snapshot}") == 0


def test_snapshot_loses_a_deleted_file(machines: Machines, instance: str) -> None:
    snapshot, found = machines.finish(instance)
    lost = next(path for path in found if path.endswith("/meta.db"))
    assert machines.lose(snapshot, lost) == {}
    assert set(found) - set(machines.files(snapshot)) == {lost}
    assert machines.lose(snapshot, lost)["status"] == 404


def test_empty_node_pulls_started_image(machines: Machines, instance: str) -> None:
    reference = Pusher(machines.cloud).push("team/cold:1", [busybox_layer(), random_layer("cold")])
    first = machines.start_pod(instance, reference)
    assert first["present"] is False
    assert first["pulled_bytes"] > 300_000
    again = machines.start_pod(instance, reference)
    assert (again["present"], again["pulled_bytes"]) == (True, 0)


@pytest.mark.parametrize("version", ["1.7", "2.1"])
def test_pod_starts_on_chosen_containerd(machines: Machines, version: str) -> None:
    here = machines.cloud.ready["containerd"]
    if version not in here:
        pytest.skip(f"containerd {version} is not here, only {', '.join(here.values())}")
    name = f"team/on-{version}:1"
    reference = Pusher(machines.cloud).push(name, [busybox_layer(), random_layer(name)])
    machines.cloud.control("POST", "settings", {"containerd": version})
    try:
        instance = machines.launch()
        machines.await_ready(instance)
    finally:
        machines.cloud.control("POST", "settings", {"containerd": None})
    assert f"Version:  {here[version]}" in machines.succeed(instance, f"{HOST} {CTR} version")
    pulled = machines.start_pod(instance, reference)
    assert (pulled["present"], pulled["exit_code"]) == (False, 0)
    started = machines.start_pod(instance, reference)
    assert (started["present"], started["pulled_bytes"], started["requests"]) == (True, 0, 0)
    assert started["output"] == "hello from amd64\n", started
    machines.terminate(instance)


def test_launch_with_missing_containerd_fails(machines: Machines) -> None:
    machines.cloud.control("POST", "settings", {"containerd": "0.1"})
    try:
        instance = machines.launch()
        machines.await_state(instance, "terminated")
    finally:
        machines.cloud.control("POST", "settings", {"containerd": None})


@pytest.fixture
def precious() -> Iterator[list[Path]]:
    """Files of the machine: one below the node's overlay, one below a mount of its own."""
    name = unique(".localcloud-test")
    files = [Path.home() / name, Path("/var/log") / name]
    for file in files:
        file.write_text("keep")
    yield files
    for file in files:
        file.unlink()


def test_deletion_on_node_keeps_files_of_machine(
    machines: Machines, instance: str, precious: list[Path]
) -> None:
    seen = machines.succeed(instance, f"{HOST} cat {precious[0]}")
    assert seen == "keep", "the overlay shows the machine's files"
    for file in precious:
        machines.succeed(instance, f"{HOST} rm -rf {file}")
        assert machines.run(instance, f"{HOST} test -e {file}")[0] == "Failed"
    machines.succeed(instance, SCRUB)
    machines.await_state(instance, "stopped")
    assert [file.read_text() for file in precious] == ["keep", "keep"]


def test_node_hides_disks_of_machine(machines: Machines, instance: str) -> None:
    devices = machines.succeed(instance, f"{HOST} find /dev -type b")
    assert devices == ""
    disk = subprocess.check_output(["findmnt", "-nvo", "SOURCE", "/"], text=True).strip()
    for line in machines.succeed(instance, f"{HOST} cat /proc/mounts").splitlines():
        source, target, _, options = line.split()[:4]
        assert source != disk or options.startswith("ro,"), f"{target} is writable"


def test_arm64_node_unpacks_its_platform_and_runs_nothing(machines: Machines) -> None:
    reference = Pusher(machines.cloud).push(
        "team/multi:1", [busybox_layer()], platforms=("amd64", "arm64")
    )
    instance = machines.launch("arm64")
    machines.await_ready(instance)
    assert json.loads(machines.succeed(instance, "apiclient get os"))["os"]["arch"] == "aarch64"
    assert "Result=success" in machines.pull(instance, reference)
    checked = machines.succeed(instance, f"{HOST} {CTR} images check name=={reference}")
    assert checked.splitlines()[1].split()[-1] == "true"
    assert "complete (3/3)" in checked, checked
    started = machines.start_pod(instance, reference)
    assert (started["present"], started["simulated"], started["requests"]) == (True, True, 0)
    machines.terminate(instance)


def test_failed_pull_fails_unit_with_reason(machines: Machines, instance: str) -> None:
    host = machines.cloud.ready["registries"]["private"]["host"]
    words = machines.pull(instance, f"{host}/team/none:1")
    assert "Result=exit-code\nExecMainStatus=1\nSubState=failed" in words
    assert "not found" in words, words
    assert words.count("before retrying") == 5


def test_power_cut_stops_instance_and_frees_volume(machines: Machines) -> None:
    instance = machines.launch()
    machines.await_ready(instance)
    machines.cloud.control("POST", f"nodes/{instance}/power-cut")
    machines.await_state(instance, "stopped")
    assert machines.describe(instance)["StateReason"]["Code"] == "Server.InternalError"
    machines.ec2.start_instances(InstanceIds=[instance])
    machines.await_ready(instance)
    machines.terminate(instance)


def test_nodes_end_with_the_cloud(tmp_path: Path) -> None:
    cloud = start_cloud(tmp_path)
    if cloud.ready["nodes"] != "real":
        stop_cloud(cloud)
        pytest.skip(cloud.ready["why"])
    cloud.control("POST", "settings", QUICK)
    machines = Machines(cloud)
    instance = machines.launch()
    machines.await_ready(instance)
    node = cloud.control("GET", "leftovers")["processes"][0]["pid"]
    cloud.process.kill()
    cloud.process.wait()
    until(lambda: not Path(f"/proc/{node}").exists(), 20)
    until(lambda: not loop_devices(tmp_path), 20)
    # The next cloud there removes the node's empty control groups.
    assert stop_cloud(start_cloud(tmp_path)) == 0
    assert not list(Path("/sys/fs/cgroup").rglob(f"localcloud-{instance}"))


def loop_devices(below: Path) -> list[str]:
    listed = subprocess.check_output(["losetup", "--list", "--noheadings"], text=True)
    return [line for line in listed.splitlines() if str(below) in line]


def test_missing_host_name_in_user_data_delays_agent(machines: Machines) -> None:
    instance = machines.launch(UserData="[settings.host-containers.admin]\nenabled = true\n")
    machines.await_state(instance, "running")
    until(lambda: machines.cloud.control("GET", "leftovers")["processes"], 20)
    assert not machines.is_online(instance)
    machines.terminate(instance)


def test_document_pulls_tags_and_removes_in_one_command(machines: Machines, instance: str) -> None:
    name = unique("queue")
    pusher = Pusher(machines.cloud)
    base = random_layer(name)
    host = pusher.place["host"]
    old = pusher.push(f"team/{name}-old:1", [base, random_layer("old")])
    machines.pull(instance, old)
    images = [
        f"{host}/team/{name}-{n}@{pusher.image(f'team/{name}-{n}', [base, random_layer(str(n))])}:1"
        for n in range(3)
    ]
    before = machines.pull_images(instance, images, "none")
    assert "NAMES ------" in before
    assert "STALE 1" in before
    changes = "pull,0-1 pull,1-1,0-1 pull-pinned,2-1,1-1,0-1 remove-stale"
    after = machines.pull_images(instance, images, changes)
    units = [line for line in after if line.startswith("UNIT ")]
    assert sorted(units) == [f"UNIT {n} 1 active exited" for n in range(3)], after
    assert "FINISHED 0" in after
    assert "NAMES uuuuUU" in after
    assert after[-4:-2] == ["REMOVED 1", "STALE 0"]
    assert after[-1] == "END"
    # A repeated request starts no pull.
    assert "FINISHED 3" in machines.pull_images(instance, images, changes)


def test_document_keeps_old_images_if_a_pull_fails(machines: Machines, instance: str) -> None:
    name = unique("failed")
    pusher = Pusher(machines.cloud)
    old = pusher.push(f"team/{name}-old:1", [random_layer(name)])
    machines.pull(instance, old)
    good = pusher.image(f"team/{name}", [random_layer("good")])
    place = f"{pusher.place['host']}/team/{name}"
    images = [f"{place}@sha256:{'0' * 64}:0", f"{place}@{good}:1"]
    after = machines.pull_images(instance, images, "pull,0-1 pull,1-1,0-1 remove-stale")
    assert "UNIT 0 1 failed failed" in after
    assert "UNIT 1 1 active exited" in after
    assert any(line.startswith("LOG 0 1 ") and "level=fatal" in line for line in after)
    assert after[-4:-2] == ["REMOVED 0", "STALE 1"]
