"""Images made without a network, and instances with a node, as the tests need them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import ssl
import tarfile
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .conftest import RunningCloud, unique, until

BUSYBOX = Path("/bin/busybox")
USER_DATA = """
[settings.kubernetes]
hostname-override = "image-cache-builder"
[settings.host-containers.admin]
enabled = true
"""
CTR = "ctr --address=/run/containerd/containerd.sock --namespace=k8s.io"
HOST = "apiclient exec -T admin sheltie"
_TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Principal": {"Service": "ec2.amazonaws.com"},
            }
        ],
    }
)


def layer(files: dict[str, bytes]) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            writer.addfile(member, io.BytesIO(content))
    return tar.getvalue()


def busybox_layer() -> bytes:
    return layer({"bin/sh": BUSYBOX.read_bytes(), "bin/echo": BUSYBOX.read_bytes()})


def random_layer(name: str, size: int = 300_000) -> bytes:
    return layer({f"data/{name}": random.Random(name).randbytes(size)})


@dataclass
class Pusher:
    """Puts images into one of the cloud's registries."""

    cloud: RunningCloud
    registry: str = "private"
    _sent: set[tuple[str, str]] = field(default_factory=set)

    @property
    def place(self) -> dict[str, str]:
        return self.cloud.ready["registries"][self.registry]

    def push(self, name: str, layers: list[bytes], platforms: tuple[str, ...] = ("amd64",)) -> str:
        """Pushes `repository:tag` and returns the reference that nodes pull."""
        repository, tag = name.split(":")
        manifests = [self._image(repository, layers, platform) for platform in platforms]
        if len(manifests) == 1:
            self._put_manifest(repository, tag, manifests[0])
        else:
            for manifest in manifests:
                self._put_manifest(repository, digest(manifest), manifest)
            self._put_manifest(repository, tag, self._index(manifests, platforms))
        return f"{self.place['host']}/{name}"

    def _image(self, repository: str, layers: list[bytes], platform: str) -> bytes:
        # A layer of its own for each platform, so that they cannot be mixed up.
        layers = [*layers, layer({"platform": platform.encode()})]
        packed = [gzip.compress(content, mtime=0) for content in layers]
        config = {
            "architecture": platform,
            "os": "linux",
            "config": {"Cmd": ["/bin/echo", f"hello from {platform}"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(content) for content in layers]},
        }
        blobs = [json.dumps(config).encode(), *packed]
        for blob in blobs:
            self._put_blob(repository, blob)
        kinds = ["application/vnd.oci.image.config.v1+json"]
        kinds += ["application/vnd.oci.image.layer.v1.tar+gzip"] * len(packed)
        described = [
            {"mediaType": kind, "digest": digest(blob), "size": len(blob)}
            for kind, blob in zip(kinds, blobs, strict=True)
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described[0],
            "layers": described[1:],
        }
        return json.dumps(manifest).encode()

    def _index(self, manifests: list[bytes], platforms: tuple[str, ...]) -> bytes:
        entries = [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(manifest),
                "size": len(manifest),
                "platform": {"os": "linux", "architecture": platform},
            }
            for manifest, platform in zip(manifests, platforms, strict=True)
        ]
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        }
        return json.dumps(index).encode()

    def _put_blob(self, repository: str, blob: bytes) -> None:
        if (repository, digest(blob)) in self._sent:
            return
        started = self._send("POST", f"/v2/{repository}/blobs/uploads/")
        location = started.headers["Location"]
        sign = "&" if "?" in location else "?"
        self._send("PUT", f"{location}{sign}digest={digest(blob)}", blob)
        self._sent.add((repository, digest(blob)))

    def _put_manifest(self, repository: str, name: str, manifest: bytes) -> None:
        kind = json.loads(manifest)["mediaType"]
        self._send("PUT", f"/v2/{repository}/manifests/{name}", manifest, kind)

    def _send(self, method: str, url: str, body: bytes = b"", kind: str = "") -> Any:
        place = self.place
        if not url.startswith("https://"):
            url = f"https://{place['address']}{url}"
        login = base64.b64encode(f"{place['username']}:{place['password']}".encode()).decode()
        headers = {
            "Authorization": f"Basic {login}",
            "Content-Type": kind or "application/octet-stream",
        }
        request = urllib.request.Request(url, method=method, data=body, headers=headers)
        context = ssl.create_default_context(cafile=self.cloud.ready["ca_certificate"])
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        return opener.open(request)


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Machines:
    """What a test does with instances."""

    cloud: RunningCloud

    def __post_init__(self) -> None:
        self.ec2, self.ssm = self.cloud.aws("ec2"), self.cloud.aws("ssm")

    def image(self, architecture: str = "x86_64") -> str:
        name = f"/aws/service/bottlerocket/aws-k8s-1.33/{architecture}/latest/image_id"
        return self.ssm.get_parameter(Name=name)["Parameter"]["Value"]

    def profile(self) -> str:
        iam, name = self.cloud.aws("iam"), unique("builder")
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=_TRUST)
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
        """Until the agent is online and the admin container answers."""
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
        """The invocation, once it has ended."""
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
        """Pulls as a build does, detached, and returns the unit's last words."""
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

    def data_volume(self, instance_id: str) -> str:
        devices = self.describe(instance_id)["BlockDeviceMappings"]
        return next(d["Ebs"]["VolumeId"] for d in devices if d["DeviceName"] == "/dev/xvdb")

    def snapshot(self, instance_id: str) -> str:
        volume = self.data_volume(instance_id)
        snapshot = self.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        until(lambda: self.snapshot_state(snapshot) == "completed", 30)
        return snapshot

    def snapshot_state(self, snapshot_id: str) -> str:
        return self.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"]

    def start_container(self, instance_id: str, reference: str) -> Any:
        body = {"reference": reference}
        return self.cloud.control("POST", f"nodes/{instance_id}/run", body)

    def files(self, snapshot_id: str, under: str = "/local") -> list[str]:
        return self.cloud.control("GET", f"snapshots/{snapshot_id}/files?under={under}")["files"]

    def terminate(self, instance_id: str) -> None:
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.await_state(instance_id, "terminated")
