"""Versions of launch templates behave as on EC2."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .machines import Machines

ROOT = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 4}}


@pytest.fixture
def template(machines: Machines) -> str:
    """A template whose only version has a data volume from a snapshot."""
    data = {"DeviceName": "/dev/xvdb", "Ebs": {"SnapshotId": "snap-12345678"}}
    created = machines.ec2.create_launch_template(
        LaunchTemplateName=uuid.uuid4().hex,
        LaunchTemplateData={"InstanceType": "m7i.large", "BlockDeviceMappings": [ROOT, data]},
    )
    return str(created["LaunchTemplate"]["LaunchTemplateId"])


def create(machines: Machines, template: str, **request: Any) -> dict[str, Any]:
    created = machines.ec2.create_launch_template_version(
        LaunchTemplateId=template, **({"LaunchTemplateData": {"EbsOptimized": True}} | request)
    )
    version: dict[str, Any] = created["LaunchTemplateVersion"]
    return version


def numbers(machines: Machines, template: str) -> list[int]:
    found = machines.ec2.describe_launch_template_versions(LaunchTemplateId=template)
    return [version["VersionNumber"] for version in found["LaunchTemplateVersions"]]


def test_version_inherits_all_but_snapshots(machines: Machines, template: str) -> None:
    data = create(machines, template, SourceVersion="1")["LaunchTemplateData"]
    assert data["InstanceType"] == "m7i.large"
    assert data["EbsOptimized"]
    assert [mapping["DeviceName"] for mapping in data["BlockDeviceMappings"]] == [
        "/dev/xvda",
        "/dev/xvdb",
    ]
    assert "SnapshotId" not in data["BlockDeviceMappings"][1]["Ebs"]
    # The source keeps its snapshot, and a version without a source inherits nothing.
    assert "InstanceType" not in create(machines, template)["LaunchTemplateData"]
    source = machines.ec2.describe_launch_template_versions(
        LaunchTemplateId=template, Versions=["1"]
    )["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert source["BlockDeviceMappings"][1]["Ebs"]["SnapshotId"] == "snap-12345678"


def test_client_token_creates_one_version(machines: Machines, template: str) -> None:
    token = uuid.uuid4().hex
    first = create(machines, template, ClientToken=token)
    assert create(machines, template, ClientToken=token) == first
    assert numbers(machines, template) == [1, 2]
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        create(machines, template, ClientToken=token, SourceVersion="1")


def test_calls_at_once_with_one_token_create_one_version(machines: Machines, template: str) -> None:
    token = uuid.uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(create, machines, template, ClientToken=token) for _ in range(8)]
    assert {call.result()["VersionNumber"] for call in calls} == {2}
    assert numbers(machines, template) == [1, 2]


def test_deleted_number_is_not_used_again(machines: Machines, template: str) -> None:
    create(machines, template)
    create(machines, template)
    answer = machines.ec2.delete_launch_template_versions(
        LaunchTemplateId=template, Versions=["1", "2", "9"]
    )
    deleted = answer["SuccessfullyDeletedLaunchTemplateVersions"]
    assert [item["VersionNumber"] for item in deleted] == [2]
    kept = answer["UnsuccessfullyDeletedLaunchTemplateVersions"]
    codes = {item["VersionNumber"]: item["ResponseError"]["Code"] for item in kept}
    assert codes == {1: "unexpectedError", 9: "launchTemplateVersionDoesNotExist"}
    assert create(machines, template)["VersionNumber"] == 4
    assert numbers(machines, template) == [1, 3, 4]
    with pytest.raises(ClientError, match="VersionNotFound"):
        machines.ec2.describe_launch_template_versions(LaunchTemplateId=template, Versions=["2"])
