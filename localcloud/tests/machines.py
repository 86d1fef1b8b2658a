"""Instances with a node, for tests."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcloud.ssm import shell_script
from localcloud.standins.boot import SECRET

from .clouds import RunningCloud, trust, unique, until

USER_DATA = """
[settings.kubernetes]
hostname-override = "image-cache-builder"
[settings.host-containers.admin]
enabled = true
"""
CTR = "ctr --address=/run/containerd/containerd.sock --namespace=k8s.io"
HOST = "apiclient exec -T admin sheltie"
QUICK = {
    "pending_seconds": 0.1,
    "agent_seconds": 0.1,
    "admin_seconds": 0.1,
    "stopping_seconds": 0.1,
    "shutting_down_seconds": 0.1,
    "snapshot_seconds": 0.1,
    "pull_retry_seconds": 0.01,
}
_DOCUMENTS = Path(__file__).parents[2] / "infra/documents"
_POWER_OFF = yaml.safe_load((_DOCUMENTS / "power-off.yaml").read_text())
SCRUB = _POWER_OFF["mainSteps"][0]["inputs"]["runCommand"][0]
_PULL_IMAGES = yaml.safe_load((_DOCUMENTS / "pull-images.yaml").read_text())
SECRETS = (
    "/local/host-containers/",
    "/local/bootstrap-containers/",
    "/local/var/lib/kubelet/",
    "/local/var/log/journal/",
    "/local/var/lib/systemd/random-seed",
    "/local/var/lib/netdog/",
    "/local/var/lib/host-containerd/",
)


@dataclass
class Machines:
    """Operations of a test on instances."""

    cloud: RunningCloud

    def __post_init__(self) -> None:
        self.ec2, self.ssm = self.cloud.aws("ec2"), self.cloud.aws("ssm")

    def image(self, architecture: str = "x86_64", version: str = "latest") -> str:
        name = f"/aws/service/bottlerocket/aws-k8s-1.33/{architecture}/{version}/image_id"
        return self.ssm.get_parameter(Name=name)["Parameter"]["Value"]

    def profile(self) -> str:
        iam, name = self.cloud.aws("iam"), unique("builder")
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust("ec2"))
        log_in = {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": log_in})
        iam.put_role_policy(RoleName=name, PolicyName="ecr", PolicyDocument=document)
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        return name

    def launch(self, architecture: str = "x86_64", data: Any = None, **more: Any) -> str:
        """Starts an instance and returns its ID; `data` is the EBS part of /dev/xvdb."""
        request = {
            "ImageId": self.image(architecture),
            "InstanceType": "m7g.large" if architecture == "arm64" else "m7i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "UserData": self.user_data(),
            "IamInstanceProfile": {"Name": self.profile()},
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/xvdb", "Ebs": data or {"VolumeSize": 2, "VolumeType": "gp3"}}
            ],
            "ClientToken": uuid.uuid4().hex,
        } | more
        return self.ec2.run_instances(**request)["Instances"][0]["InstanceId"]

    def user_data(self) -> str:
        place = self.cloud.ready["registries"]["private"]
        credential = (
            "[[settings.container-registry.credentials]]\n"
            f'registry = "{place["host"]}"\n'
            f'username = "{place["username"]}"\npassword = "{place["password"]}"\n'
        )
        return USER_DATA + credential

    def describe(self, instance_id: str) -> Any:
        answer = self.ec2.describe_instances(InstanceIds=[instance_id])
        return answer["Reservations"][0]["Instances"][0]

    def state(self, instance_id: str) -> str:
        return self.describe(instance_id)["State"]["Name"]

    def await_state(self, instance_id: str, state: str) -> None:
        until(lambda: self.state(instance_id) == state, 30)

    def await_ready(self, instance_id: str) -> None:
        """Waits until the agent is online and the admin container answers."""
        until(lambda: self.is_online(instance_id), 30)
        until(lambda: self.run(instance_id, "apiclient exec -T admin true")[0] == "Success", 30)

    def is_online(self, instance_id: str) -> bool:
        wanted = [{"Key": "InstanceIds", "Values": [instance_id]}]
        listed = self.ssm.describe_instance_information(Filters=wanted)["InstanceInformationList"]
        return any(agent["PingStatus"] == "Online" for agent in listed)

    def send(self, instance_id: str, script: str, **parameters: str) -> str:
        answer = self.ssm.send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=[instance_id],
            Parameters={"commands": [script]} | {k: [v] for k, v in parameters.items()},
        )
        return answer["Command"]["CommandId"]

    def result(self, instance_id: str, command_id: str, seconds: float = 60) -> Any:
        """Waits for the end of the invocation and returns it."""
        missing = self.ssm.exceptions.InvocationDoesNotExist

        def ended() -> Any:
            try:
                found = self.ssm.get_command_invocation(
                    CommandId=command_id, InstanceId=instance_id
                )
            except missing:
                return None
            return found["Status"] not in ("Pending", "InProgress", "Cancelling") and found

        return until(ended, seconds)

    def run(self, instance_id: str, script: str, seconds: float = 60) -> tuple[str, str]:
        """Runs a script; returns the final status and all of its output."""
        found = self.result(instance_id, self.send(instance_id, script), seconds)
        return found["Status"], found["StandardOutputContent"] + found["StandardErrorContent"]

    def succeed(self, instance_id: str, script: str) -> str:
        status, output = self.run(instance_id, script)
        assert status == "Success", output
        return output

    def pull(self, instance_id: str, reference: str) -> str:
        """Pulls as a build does, detached, and returns the unit's final log."""
        unit = unique("pull")
        self.succeed(
            instance_id,
            f"{HOST} systemd-run --unit={unit} --remain-after-exit /usr/bin/host-ctr "
            "--containerd-socket=/run/containerd/containerd.sock --namespace=k8s.io "
            f"pull-image --source={reference} "
            "--registry-config=/etc/host-containers/host-ctr.toml",
        )
        show = f"{HOST} systemctl show --property=SubState,Result,ExecMainStatus {unit}"

        def ended() -> str:
            shown = self.succeed(instance_id, show)
            return "" if "SubState=running" in shown else shown

        shown = until(ended, 60)
        log = self.succeed(instance_id, f"{HOST} journalctl --no-pager -o cat -u {unit}")
        return shown + log

    def pull_images(self, instance_id: str, images: list[str], changes: str) -> list[str]:
        """Runs prepull's document and returns the lines of its output."""
        given = {"Images": [" ".join(images)], "Changes": [changes], "WaitSeconds": ["60"]}
        script, _ = shell_script(_PULL_IMAGES, given)
        return self.succeed(instance_id, script).splitlines()

    def data_volume(self, instance_id: str) -> str:
        devices = self.describe(instance_id)["BlockDeviceMappings"]
        return next(d["Ebs"]["VolumeId"] for d in devices if d["DeviceName"] == "/dev/xvdb")

    def snapshot(self, instance_id: str) -> str:
        volume = self.data_volume(instance_id)
        snapshot = self.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        until(lambda: self.snapshot_state(snapshot) == "completed", 30)
        return snapshot

    def finish(self, instance_id: str) -> tuple[str, list[str]]:
        """Ends a build: scrubs, powers off, takes the snapshot; returns it and its files."""
        self.succeed(instance_id, SCRUB)
        self.await_state(instance_id, "stopped")
        snapshot = self.snapshot(instance_id)
        found = self.files(snapshot)
        assert [path for path in found if path.startswith(SECRETS)] == []
        return snapshot, found

    def secrets(self, snapshot_id: str) -> int:
        """Counts the secrets in the blocks of a snapshot."""
        route = f"snapshots/{snapshot_id}/search?text={SECRET}"
        return self.cloud.control("GET", route)["occurrences"]

    def snapshot_state(self, snapshot_id: str) -> str:
        return self.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"]

    def start_pod(self, instance_id: str, reference: str) -> Any:
        body = {"reference": reference}
        return self.cloud.control("POST", f"nodes/{instance_id}/run", body)

    def files(self, snapshot_id: str, under: str = "/local") -> list[str]:
        return self.cloud.control("GET", f"snapshots/{snapshot_id}/files?under={under}")["files"]

    def lose(self, snapshot_id: str, path: str) -> Any:
        return self.cloud.control("DELETE", f"snapshots/{snapshot_id}/files?path={path}")

    def terminate(self, instance_id: str) -> None:
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.await_state(instance_id, "terminated")
