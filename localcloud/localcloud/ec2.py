"""EC2: instances that take time to change state, each with a node behind it.

moto keeps the records. This module adds the behaviour that moto leaves out:
moto changes states at once, ignores client tokens, does not check images and
instance types, and drops the throughput of volumes.
"""

from __future__ import annotations

import base64
import copy
import threading
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2 import utils as ec2_utils
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami, AmiBackend
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.instances import Instance, InstanceState, Reservation, StateReason
from moto.ec2.responses.general import General
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, Base64EncodedString, get_prefix

from . import bottlerocket, ebs, nodes
from .bottlerocket import DATA_DEVICE, ROOT_DEVICE, Release
from .cloud import ACCOUNT, DUAL_STACK_ECR_HOST, Cloud, credentials
from .ebs import cache_of
from .nodes import Launch, Node
from .patching import api, patch

CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
USER_STOP = StateReason(
    "Client.UserInitiatedShutdown: User initiated shutdown", "Client.UserInitiatedShutdown"
)
SELF_STOP = StateReason(
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    "Client.InstanceInitiatedShutdown",
)
POWER_LOST = StateReason("Server.InternalError: Internal error", "Server.InternalError")
LAUNCH_FAILED = StateReason("Client.InternalError: Client error on launch", "Client.InternalError")


class Machines:
    """The life cycle of instances, and the nodes behind them."""

    def __init__(self, cloud: Cloud, nodes_: nodes.Nodes, store: ebs.Store) -> None:
        self.cloud = cloud
        self.nodes = nodes_
        self.store = store
        self.releases: dict[str, Release] = {}
        """Releases by image ID, for every used region."""
        self.lock = threading.RLock()

    def instances(self) -> list[Instance]:
        return [i for b in list(ec2_backends[ACCOUNT].values()) for i in b.all_instances()]

    def node(self, instance_id: str) -> Node | None:
        return self.nodes.get(instance_id)

    def settings(self, instance: Instance) -> Mapping[str, Any]:
        """Returns the settings of the instance's cache."""
        return self.cloud.settings.of(cache_of(instance))

    def settings_of(self, instance_id: str) -> Mapping[str, Any]:
        found = next((i for i in self.instances() if i.id == instance_id), None)
        return self.settings(found) if found else self.cloud.settings

    def launch(self, instance: Instance) -> None:
        self._set(instance, "pending")
        self.cloud.later(self.settings(instance)["pending_seconds"], self._run, instance)

    def stop(self, instance: Instance, reason: StateReason) -> None:
        with self.lock:
            if instance.state in ("pending", "running"):
                self._set(instance, "stopping", reason)
                self._end_node(instance)

    def terminate(self, instance: Instance, reason: StateReason) -> None:
        with self.lock:
            if instance.state in ("shutting-down", "terminated"):
                return
            # A node that is powering off reports its end only once.
            ending = instance.state == "stopping" and self.nodes.get(instance.id) is not None
            self._set(instance, "shutting-down", reason)
            if not ending:
                self._end_node(instance)

    def start(self, instance: Instance) -> None:
        with self.lock:
            if instance.state in ("pending", "running"):
                return
            if instance.state != "stopped":
                message = (
                    f"The instance '{instance.id}' is not in a state from which it can be started."
                )
                raise EC2ClientError("IncorrectInstanceState", message)
            self.launch(instance)

    # Steps

    def _run(self, instance: Instance) -> None:
        with self.lock:
            if instance.state != "pending":
                return
            if self.cloud.settings.use_up("launch_errors", cache_of(instance)):
                self._set(instance, "shutting-down", LAUNCH_FAILED)
                self._terminated(instance)
                return
            self._set(instance, "running", StateReason())
            data = instance.block_device_mapping.get(DATA_DEVICE)
            if data is not None:
                launch = self._launch_of(instance, data.volume_id)
                self.nodes.start(launch, self._node_ended(instance))

    def _launch_of(self, instance: Instance, volume_id: str) -> Launch:
        registries = self.cloud.registries
        release = self.releases.get(instance.image_id)
        return Launch(
            instance_id=instance.id,
            architecture=instance.architecture,
            hostname=instance.private_dns_name.partition(".")[0],
            user_data=decode_user_data(instance.user_data),
            volume=self.store.volume(volume_id),
            os=release.description if release else {},
            credentials=role_credentials(instance),
            endpoint=self.cloud.endpoint,
            region=instance.ec2_backend.region_name,
            registries={
                registries.ecr.host: registries.ecr.address,
                DUAL_STACK_ECR_HOST: registries.ecr.address,
                registries.private.host: registries.private.address,
            },
            ca=registries.ca_certificate,
            timings=self.nodes.timings(self.settings(instance)),
            containerd=self.settings(instance)["containerd"],
            disk_full_after_bytes=self.settings(instance)["disk_full_after_bytes"],
            stuck_mount=self.settings(instance)["stuck_mount"],
        )

    def _node_ended(self, instance: Instance) -> Any:
        def ended(node: Node) -> None:
            with self.lock:
                if instance.state == "running":
                    self._ended_by_itself(instance, node)
                self._node_gone(instance)

        return ended

    def _ended_by_itself(self, instance: Instance, node: Node) -> None:
        if node.process is None:
            self._set(instance, "shutting-down", LAUNCH_FAILED)
        elif node.process.returncode != 0:
            self._set(instance, "stopping", POWER_LOST)
        elif instance.instance_initiated_shutdown_behavior == "terminate":
            self._set(instance, "shutting-down", SELF_STOP)
        else:
            self._set(instance, "stopping", SELF_STOP)

    def _end_node(self, instance: Instance) -> None:
        node = self.nodes.get(instance.id)
        if node is None:
            self._node_gone(instance)
        else:
            node.power_off()

    def _node_gone(self, instance: Instance) -> None:
        settings = self.settings(instance)
        if instance.state == "stopping":
            self.cloud.later(settings["stopping_seconds"], self._stopped, instance)
        elif instance.state == "shutting-down":
            self.cloud.later(settings["shutting_down_seconds"], self._terminated, instance)

    def _stopped(self, instance: Instance) -> None:
        with self.lock:
            if instance.state == "stopping":
                self._set(instance, "stopped", instance.state_reason)

    def _terminated(self, instance: Instance) -> None:
        with self.lock:
            if instance.state != "shutting-down":
                return
            reason = instance.state_reason
            terminate_record(instance)
            self._set(instance, "terminated", reason)

    def _set(self, instance: Instance, state: str, reason: StateReason | None = None) -> None:
        instance._state.name, instance._state.code = state, CODES[state]
        if reason is not None:
            instance.state_reason = reason
        self.cloud.put_event(
            "aws.ec2",
            "EC2 Instance State-change Notification",
            {"instance-id": instance.id, "state": state},
        )


terminate_record = Instance.terminate
"""moto's method: detaches and deletes volumes, frees network interfaces."""


def decode_user_data(user_data: Any) -> str:
    if not user_data:
        return ""
    return base64.b64decode(str(user_data)).decode(errors="replace")


def role_credentials(instance: Instance) -> dict[str, str]:
    """Returns the credentials from the metadata service; empty without a profile."""
    association = instance.ec2_backend.iam_instance_profile_associations.get(instance.id)
    if association is None:
        return {}
    roles = association.iam_instance_profile.roles
    return credentials(roles[0].name) if roles else {}


Stored = TypeVar("Stored")


class Tokens(Generic[Stored]):
    """Client tokens: a repeated call gets the first call's answer.

    Callers hold the lock of `Machines` from `recall` to `remember`.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[dict[str, Any], Stored]] = {}

    def recall(self, region: str, token: str, request: dict[str, Any]) -> Stored | None:
        seen = self._seen.get((region, token))
        if seen is None:
            return None
        if seen[0] != request:
            message = (
                "The request uses the same client token as a previous, but non-identical request."
            )
            raise EC2ClientError("IdempotentParameterMismatch", message)
        return seen[1]

    def remember(self, region: str, token: str, request: dict[str, Any], answer: Stored) -> None:
        self._seen[(region, token)] = (request, answer)


def install(cloud: Cloud) -> None:
    cloud.settings.register_scopable(
        pending_seconds=1.0,
        stopping_seconds=0.5,
        shutting_down_seconds=0.5,
        launch_errors=0,
    )
    running = nodes.install(cloud)
    store = ebs.install(cloud, running)
    machines = Machines(cloud, running, store)
    cloud.machines = machines
    _offer_bottlerocket(machines)
    _look_up_tags()
    _replace_run_instances(machines)
    _replace_life_cycle(machines)
    _show_console(machines)
    patch(
        ec2_utils,
        "filter_dict_attribute_mapping[client-token]",
        "client_token",
        reason="Supports the filter client-token.",
        link=api("ec2", "DescribeInstances"),
        adds=True,
    )
    cloud.leftovers(
        "instances",
        lambda: [
            {"id": i.id, "state": i.state} for i in machines.instances() if i.state != "terminated"
        ],
    )


def _show_console(machines: Machines) -> None:
    def get_console_output(self: General) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        node = machines.node(instance.id)
        output = Base64EncodedString.from_raw_string(node.console() if node else "")
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})

    patch(
        General,
        "get_console_output",
        get_console_output,
        reason="Returns the console of the node; moto returns a fixed text.",
        link=api("ec2", "GetConsoleOutput"),
    )


def _look_up_tags() -> None:
    """Looks up the tags of one resource. moto searches all tags for every filter."""

    def get_tags(self: TaggedEC2Resource) -> list[dict[str, str]]:
        identity = self.id  # type: ignore[attr-defined]
        kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(identity), "")
        tags = self.ec2_backend.tags.get(identity, {})  # type: ignore[attr-defined]
        return [
            {"resource_id": identity, "key": key, "value": value, "resource_type": kind}
            for key, value in list(tags.items())
        ]

    patch(
        TaggedEC2Resource,
        "get_tags",
        get_tags,
        reason="Looks up the tags of one resource; moto searches all tags for every filter.",
    )


def _offer_bottlerocket(machines: Machines) -> None:
    load = AmiBackend._load_amis

    def load_amis(self: Any) -> None:
        load(self)
        for release in bottlerocket.releases():
            image = Ami(
                self,
                release.image_id(self.region_name),
                name=release.image_name,
                owner_id=bottlerocket.OWNER,
                owner_alias="amazon",
                public=True,
                virtualization_type="hvm",
                architecture=release.architecture,
                hypervisor="xen",
                root_device_type="ebs",
                root_device_name=ROOT_DEVICE,
                region_name=f"{self.region_name}a",
            )
            image.ebs_snapshot.volume.size = bottlerocket.ROOT_GIB
            image.localcloud_mappings = [
                device(ROOT_DEVICE, bottlerocket.ROOT_GIB, image.ebs_snapshot.id),
                device(DATA_DEVICE, bottlerocket.DATA_GIB),
            ]
            self.amis[image.id] = image
            machines.releases[image.id] = release

    patch(AmiBackend, "_load_amis", load_amis, reason="Adds the Bottlerocket images.")


def device(name: str, gib: int, snapshot_id: str | None = None) -> dict[str, Any]:
    ebs_ = {"VolumeSize": gib, "VolumeType": "gp3", "DeleteOnTermination": True, "Encrypted": False}
    return {"DeviceName": name, "Ebs": ebs_ | ({"SnapshotId": snapshot_id} if snapshot_id else {})}


def merge_devices(image: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the image's devices, each overridden by the request's values."""
    merged = {m["DeviceName"]: copy.deepcopy(m) for m in image}
    for mapping in asked:
        name = mapping["DeviceName"]
        if "NoDevice" in mapping:
            merged.pop(name, None)
            continue
        base = merged.get(name, {"DeviceName": name, "Ebs": {}})
        ebs_ = base["Ebs"] | mapping.get("Ebs", {})
        if "SnapshotId" in mapping.get("Ebs", {}) and "VolumeSize" not in mapping["Ebs"]:
            # The snapshot decides the size, not the image.
            ebs_.pop("VolumeSize", None)
        merged[name] = {"DeviceName": name, "Ebs": {"DeleteOnTermination": True} | ebs_}
    return list(merged.values())


def _replace_run_instances(machines: Machines) -> None:
    run = InstanceResponse.run_instances
    tokens: Tokens[Reservation] = Tokens()

    def devices(self: InstanceResponse) -> list[dict[str, Any]]:
        image = self.ec2_backend.describe_images(ami_ids=[self._get_param("ImageId")])[0]
        asked = self._get_param("BlockDeviceMappings", [])
        return merge_devices(image.block_device_mappings, asked)

    def run_instances(self: InstanceResponse) -> ActionResult:
        token = self._get_param("ClientToken")
        request = {k: v for k, v in self.data.items() if k != "ClientToken"}
        _apply_template(self)
        # If two equal calls run at once, the second waits for the first one's answer.
        with machines.lock:
            if token and (known := tokens.recall(self.region, token, request)):
                return ActionResult(known)
            mappings = devices(self)
            _check_launch(self, mappings)
            answer = run(self)
            reservation = answer.result
            for instance in reservation.instances:
                _complete_volumes(self.ec2_backend, instance, mappings)
                # moto drops the groups of a network interface.
                instance.security_groups = instance.security_groups or instance.nics[0].group_set
                machines.launch(instance)
            if token:
                tokens.remember(self.region, token, request, reservation)
            return answer

    patch(
        InstanceResponse,
        "run_instances",
        run_instances,
        reason="Honours tokens, checks image and type, completes volumes. Takes only ImageId, "
        "InstanceType, IamInstanceProfile and BlockDeviceMappings from a launch template.",
        link=api("ec2", "RunInstances"),
    )
    patch(
        InstanceResponse,
        "_parse_block_device_mapping",
        devices,
        reason="Merges the image's block devices with the request's.",
        link=api("ec2", "BlockDeviceMapping"),
    )


def _apply_template(self: InstanceResponse) -> None:
    """Sets the parameters that the request leaves to its launch template.

    These are ImageId, InstanceType, IamInstanceProfile and BlockDeviceMappings. Others have no
    effect, for example UserData.
    """
    if not (template := self._get_param("LaunchTemplate")):
        return
    data = self.ec2_backend._get_template_from_args(template).data
    for name in ("ImageId", "InstanceType", "IamInstanceProfile", "BlockDeviceMappings"):
        if name in data and self._get_param(name) is None:
            self.params[name] = copy.deepcopy(data[name])


def _check_launch(self: InstanceResponse, mappings: list[dict[str, Any]]) -> None:
    image = self.ec2_backend.describe_images(ami_ids=[self._get_param("ImageId")])[0]
    wanted = self._get_param("InstanceType") or "m1.small"
    known = self.ec2_backend.describe_instance_types()
    found = next((t for t in known if t.get("InstanceType") == wanted), None)
    if found is None:
        # Source: https://github.com/getmoto/moto/issues/1695, which quotes EC2's answer.
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{wanted}' for InstanceType.")
    supported = found.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    if image.architecture and image.architecture not in supported:
        message = (
            f"The architecture '{','.join(supported)}' of the specified instance type does not "
            f"match the architecture '{image.architecture}' of the specified AMI. Specify an "
            "instance type and an AMI that have matching architectures, and try again."
        )
        raise EC2ClientError("InvalidParameterValue", message)
    for mapping in mappings:
        if snapshot_id := mapping["Ebs"].get("SnapshotId"):
            snapshot = self.ec2_backend.get_snapshot(snapshot_id)
            if snapshot.owner_id == self.current_account:
                size = mapping["Ebs"].get("VolumeSize")
                ebs.check_snapshot(snapshot, size, "InvalidBlockDeviceMapping")


def _complete_volumes(backend: Any, instance: Instance, mappings: list[dict[str, Any]]) -> None:
    """Sets the properties of block devices that moto drops."""
    asked = {m["DeviceName"]: m["Ebs"] for m in mappings}
    for name, block in instance.block_device_mapping.items():
        volume = backend.get_volume(block.volume_id)
        volume.attachment.delete_on_termination = block.delete_on_termination
        if asked[name].get("Throughput"):
            volume.throughput = int(asked[name]["Throughput"])
        elif volume.volume_type == "gp3":
            volume.throughput = 125
        if asked[name].get("Iops"):
            volume.iops = int(asked[name]["Iops"])


def _replace_life_cycle(machines: Machines) -> None:
    def stop(self: Instance) -> InstanceState:
        before = copy.copy(self._state)
        if before.name in ("shutting-down", "terminated"):
            message = f"This instance '{self.id}' is not in a state from which it can be stopped."
            raise EC2ClientError("IncorrectInstanceState", message)
        machines.stop(self, USER_STOP)
        return before

    def terminate(self: Instance) -> InstanceState:
        before = copy.copy(self._state)
        machines.terminate(self, USER_STOP)
        return before

    def start(self: Instance) -> InstanceState:
        before = copy.copy(self._state)
        machines.start(self)
        return before

    patch(
        Instance,
        "stop",
        stop,
        reason="Stops the node and changes the state slowly; moto does so at once.",
        link=api("ec2", "StopInstances"),
    )
    patch(
        Instance,
        "terminate",
        terminate,
        reason="Ends the node and changes the state slowly; moto does so at once.",
        link=api("ec2", "TerminateInstances"),
    )
    patch(
        Instance,
        "start",
        start,
        reason="Starts a node and changes the state slowly; moto does so at once.",
        link=api("ec2", "StartInstances"),
    )
