"""Instances, volumes and snapshots behave as on EC2."""

from __future__ import annotations

import uuid
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from .clouds import until
from .machines import Machines


def refusal(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    return refused.value.response["Error"]["Code"]


def test_instance_changes_state_slowly_and_frees_volumes(machines: Machines) -> None:
    machines.cloud.control("POST", "settings", {"pending_seconds": 0.5})
    instance = machines.launch()
    assert machines.state(instance) == "pending"
    machines.await_state(instance, "running")
    volume = machines.data_volume(instance)
    machines.ec2.terminate_instances(InstanceIds=[instance])
    assert machines.state(instance) == "shutting-down"
    machines.await_state(instance, "terminated")
    assert machines.describe(instance)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert refusal(machines.ec2.describe_volumes, VolumeIds=[volume]) == "InvalidVolume.NotFound"


def test_client_token_starts_one_instance(machines: Machines) -> None:
    token = uuid.uuid4().hex
    common = {"ClientToken": token, "IamInstanceProfile": {"Name": machines.profile()}}
    first = machines.launch(**common)
    assert machines.launch(**common) == first
    request = {
        "ImageId": machines.image(),
        "InstanceType": "m7i.xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token,
    }
    assert refusal(machines.ec2.run_instances, **request) == "IdempotentParameterMismatch"
    machines.terminate(first)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ImageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "m7g.large"}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-00000000"}, "InvalidSubnetID.NotFound"),
    ],
)
def test_invalid_launch_is_refused(machines: Machines, change: dict[str, str], code: str) -> None:
    request = {"ImageId": machines.image(), "InstanceType": "m7i.large", "MinCount": 1}
    assert refusal(machines.ec2.run_instances, **request | change, MaxCount=1) == code
    assert machines.cloud.control("GET", "leftovers")["instances"] == []


def test_volumes_keep_requested_properties(machines: Machines) -> None:
    tags = [{"Key": "prepull:cache", "Value": "web"}]
    instance = machines.launch(
        data={"VolumeSize": 5, "VolumeType": "gp3", "Throughput": 500, "Iops": 4000},
        TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    )
    filters = [
        {"Name": "attachment.instance-id", "Values": [instance]},
        {"Name": "attachment.device", "Values": ["/dev/xvdb"]},
        {"Name": "tag:prepull:cache", "Values": ["web"]},
    ]
    (volume,) = machines.ec2.describe_volumes(Filters=filters)["Volumes"]
    assert (volume["Size"], volume["Throughput"], volume["Iops"]) == (5, 500, 4000)
    assert volume["Attachments"][0]["DeleteOnTermination"] is True
    devices = {d["DeviceName"] for d in machines.describe(instance)["BlockDeviceMappings"]}
    assert devices == {"/dev/xvda", "/dev/xvdb"}
    machines.terminate(instance)


def test_filters_find_instance_by_launch_parameters(machines: Machines) -> None:
    subnet = machines.ec2.describe_subnets()["Subnets"][0]
    group = machines.ec2.describe_security_groups(
        Filters=[{"Name": "vpc-id", "Values": [subnet["VpcId"]]}]
    )["SecurityGroups"][0]["GroupId"]
    token = uuid.uuid4().hex
    interface = {
        "DeviceIndex": 0,
        "SubnetId": subnet["SubnetId"],
        "Groups": [group],
        "AssociatePublicIpAddress": True,
    }
    instance = machines.launch(
        ClientToken=token,
        NetworkInterfaces=[interface],
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    )
    filters = [
        {"Name": "client-token", "Values": [token]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    (reservation,) = machines.ec2.describe_instances(Filters=filters)["Reservations"]
    (found,) = reservation["Instances"]
    assert found["InstanceId"] == instance
    assert (found["SubnetId"], found["ClientToken"]) == (subnet["SubnetId"], token)
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert [g["GroupId"] for g in found["SecurityGroups"]] == [group]
    machines.terminate(instance)


def test_stopped_instance_terminates_at_any_moment(machines: Machines) -> None:
    instance = machines.launch()
    machines.await_ready(instance)
    machines.ec2.stop_instances(InstanceIds=[instance])
    assert machines.state(instance) == "stopping"
    machines.terminate(instance)
    left = machines.cloud.control("GET", "leftovers")["processes"]
    assert instance not in {node["instance"] for node in left}


def test_stopping_instance_that_hangs_terminates(machines: Machines) -> None:
    instance = machines.launch()
    machines.await_ready(instance)
    machines.cloud.control("POST", "settings", {"stopping_seconds": 3600})
    machines.ec2.stop_instances(InstanceIds=[instance])

    def nodes() -> set[str]:
        left = machines.cloud.control("GET", "leftovers")["processes"]
        return {node["instance"] for node in left}

    until(lambda: instance not in nodes(), 10)
    assert machines.state(instance) == "stopping"
    machines.terminate(instance)


def test_shutdown_from_inside_terminates_if_requested(machines: Machines) -> None:
    instance = machines.launch(InstanceInitiatedShutdownBehavior="terminate")
    machines.await_ready(instance)
    machines.send(instance, "apiclient exec -T admin sheltie systemctl poweroff")
    machines.await_state(instance, "terminated")
    code = machines.describe(instance)["StateReason"]["Code"]
    assert code == "Client.InstanceInitiatedShutdown"


def test_failed_launch_ends_terminated_with_reason(machines: Machines) -> None:
    machines.cloud.control("POST", "settings", {"launch_errors": 1})
    instance = machines.launch()
    machines.await_state(instance, "terminated")
    assert machines.describe(instance)["StateReason"]["Code"] == "Client.InternalError"


def test_snapshots_take_time_and_can_fail(machines: Machines) -> None:
    machines.cloud.control("POST", "settings", {"snapshot_seconds": 0.4, "snapshot_errors": 1})
    zone = machines.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    volume = machines.ec2.create_volume(Size=3, AvailabilityZone=zone)["VolumeId"]
    ids = [machines.ec2.create_snapshot(VolumeId=volume)["SnapshotId"] for _ in range(2)]
    assert machines.snapshot_state(ids[0]) == "pending"
    assert (
        refusal(machines.ec2.create_volume, SnapshotId=ids[1], AvailabilityZone=zone)
        == "IncorrectState"
    )
    until(lambda: machines.snapshot_state(ids[1]) != "pending")
    assert sorted(map(machines.snapshot_state, ids)) == ["completed", "error"]
    failed = min(ids, key=lambda snapshot: machines.snapshot_state(snapshot) != "error")
    described = machines.ec2.describe_snapshots(SnapshotIds=[failed])["Snapshots"][0]
    assert "StateMessage" in described
    machines.ec2.delete_volume(VolumeId=volume)


def test_builders_follow_settings_of_their_cache(machines: Machines) -> None:
    change = {"launch_errors": 1, "shutting_down_seconds": 0}
    machines.cloud.control("POST", "settings?cache=web", change)
    machines.cloud.control("POST", "settings?cache=slow", {"pending_seconds": 60})
    other, failed, slow = (launch_for(machines, cache) for cache in ("other", "web", "slow"))
    machines.await_state(failed, "terminated")
    machines.await_state(other, "running")
    second = launch_for(machines, "web")
    machines.await_state(second, "running")
    assert machines.state(slow) == "pending"
    for instance in (other, second, slow):
        machines.terminate(instance)


def test_snapshots_follow_settings_of_their_cache(machines: Machines) -> None:
    change = {"snapshot_seconds": 0, "snapshot_errors": 2}
    machines.cloud.control("POST", "settings?cache=web", change)
    zone = machines.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    create = {"Size": 1, "AvailabilityZone": zone}
    for cache, state in (("web", "error"), ("other", "completed")):
        tags = tagged(cache, "volume")
        volume = machines.ec2.create_volume(**create, TagSpecifications=tags)["VolumeId"]
        snapshot = machines.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        until(lambda s=snapshot, wanted=state: machines.snapshot_state(s) == wanted)
        machines.ec2.delete_volume(VolumeId=volume)


def tagged(cache: str, *kinds: str) -> list[dict[str, Any]]:
    tags = [{"Key": "prepull:cache", "Value": cache}]
    return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def launch_for(machines: Machines, cache: str) -> str:
    return machines.launch(TagSpecifications=tagged(cache, "instance", "volume"))


def test_owner_filter_returns_only_own_snapshots(machines: Machines) -> None:
    snapshot = complete_snapshot(machines)
    listed = machines.ec2.describe_snapshots(
        OwnerIds=["self"], Filters=[{"Name": "status", "Values": ["completed"]}]
    )["Snapshots"]
    assert snapshot in {s["SnapshotId"] for s in listed}
    assert {s["OwnerId"] for s in listed} == {"123456789012"}


def test_volume_smaller_than_its_snapshot_is_refused(machines: Machines) -> None:
    snapshot = complete_snapshot(machines, size=3)
    request = {
        "ImageId": machines.image(),
        "InstanceType": "m7i.large",
        "MinCount": 1,
        "MaxCount": 1,
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvdb", "Ebs": {"SnapshotId": snapshot, "VolumeSize": 2}}
        ],
    }
    assert refusal(machines.ec2.run_instances, **request) == "InvalidBlockDeviceMapping"


def test_deleting_snapshot_of_an_image_is_refused(machines: Machines) -> None:
    snapshot = complete_snapshot(machines)
    image = machines.ec2.register_image(
        Name="bottlerocket-cached",
        BlockDeviceMappings=[{"DeviceName": "/dev/xvdb", "Ebs": {"SnapshotId": snapshot}}],
    )["ImageId"]
    delete = machines.ec2.delete_snapshot
    assert refusal(delete, SnapshotId=snapshot) == "InvalidSnapshot.InUse"
    machines.ec2.deregister_image(ImageId=image)
    delete(SnapshotId=snapshot)


def test_regional_copy_has_its_own_share_permissions(machines: Machines) -> None:
    snapshot = complete_snapshot(machines)
    there = boto3.client(
        "ec2",
        region_name="eu-central-1",
        endpoint_url=machines.cloud.ready["endpoint"],
        aws_access_key_id="operator",
        aws_secret_access_key="test",
    )
    copy = there.copy_snapshot(SourceRegion="eu-west-1", SourceSnapshotId=snapshot, Encrypted=True)[
        "SnapshotId"
    ]
    until(
        lambda: there.describe_snapshots(SnapshotIds=[copy])["Snapshots"][0]["State"] == "completed"
    )
    permission = {"SnapshotId": copy, "Attribute": "createVolumePermission"}
    there.modify_snapshot_attribute(**permission, OperationType="add", UserIds=["210987654321"])
    shared = there.describe_snapshot_attribute(**permission)["CreateVolumePermissions"]
    assert shared == [{"UserId": "210987654321"}]


def complete_snapshot(machines: Machines, size: int = 1) -> str:
    zone = machines.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    volume = machines.ec2.create_volume(Size=size, AvailabilityZone=zone)["VolumeId"]
    snapshot = machines.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    until(lambda: machines.snapshot_state(snapshot) == "completed")
    machines.ec2.delete_volume(VolumeId=volume)
    return snapshot
