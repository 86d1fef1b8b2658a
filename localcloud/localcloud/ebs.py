"""EBS: volumes and snapshots that hold data, and snapshots that take time."""

from __future__ import annotations

import time
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidSnapshotInUse
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.elastic_block_store import EBSBackend, Snapshot, Volume
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.kms.models import KmsBackend
from moto.kms.utils import RESERVED_ALIASES

from .cloud import ACCOUNT, CACHE_TAG, Cloud
from .nodes import Nodes
from .patching import api, patch


class Store:
    """The data of volumes and snapshots, in the state directory."""

    def __init__(self, cloud: Cloud, nodes: Nodes) -> None:
        self._cloud = cloud
        self._kind = nodes.kind

    def volume(self, volume_id: str) -> Any:
        return self._cloud.state / "volumes" / volume_id

    def snapshot(self, snapshot_id: str) -> Any:
        return self._cloud.state / "snapshots" / snapshot_id

    def create_volume(self, volume: Volume) -> None:
        source = self.snapshot(volume.snapshot_id) if volume.snapshot_id else None
        target = self.volume(volume.id)
        if source is not None and source.exists():
            self._kind.copy_volume(source, target)
            self._kind.grow_volume(target, int(volume.size))
        else:
            self._kind.create_volume(target, int(volume.size))

    def grow_volume(self, volume: Volume) -> None:
        self._kind.grow_volume(self.volume(volume.id), int(volume.size))

    def delete_volume(self, volume_id: str) -> None:
        self._kind.remove_volume(self.volume(volume_id))

    def start_snapshot(self, snapshot: Snapshot, source: Any, cache: str | None) -> None:
        """Copies the data now, for the point in time; completes the snapshot later."""
        snapshot.status = "pending"
        snapshot.localcloud_started = time.monotonic()
        snapshot.localcloud_seconds = self._cloud.settings.of(cache)["snapshot_seconds"]
        if source.exists():
            self._kind.copy_volume(source, self.snapshot(snapshot.id))
        self._cloud.later(snapshot.localcloud_seconds, self._complete, snapshot, cache)

    def _complete(self, snapshot: Snapshot, cache: str | None) -> None:
        if self._cloud.settings.use_up("snapshot_errors", cache):
            snapshot.status = "error"
            snapshot.state_message = "An internal error has occurred"
            return
        if self._cloud.settings.use_up("snapshot_damages", cache):
            damage = self._cloud.settings.of(cache)["snapshot_damage"]
            self._kind.damage(self.snapshot(snapshot.id), damage)
        snapshot.status = "completed"

    def delete_snapshot(self, snapshot_id: str) -> None:
        self._kind.remove_volume(self.snapshot(snapshot_id))


def cache_of(resource: TaggedEC2Resource) -> str | None:
    """Returns the cache of an instance, a volume or a snapshot."""
    return resource.ec2_backend.tags.get(resource.id, {}).get(CACHE_TAG)


def progress(snapshot: Snapshot) -> str:
    if snapshot.status == "completed":
        return "100%"
    begun = time.monotonic() - snapshot.localcloud_started
    return f"{min(99, int(100 * begun / max(snapshot.localcloud_seconds, 0.01)))}%"


def default_key(region: str) -> str:
    """Returns the key of encrypted volumes without their own, by ARN or by AWS's alias."""
    key: str = ec2_backends[ACCOUNT][region].default_kms_key_id
    return key or f"arn:aws:kms:{region}:{ACCOUNT}:alias/aws/ebs"


def check_snapshot(snapshot: Snapshot, size: int | None, code: str) -> None:
    """Raises EC2's error if the volume is smaller than the snapshot."""
    if snapshot.status != "completed":
        raise EC2ClientError("IncorrectState", f"Snapshot '{snapshot.id}' is not 'completed'.")
    if size is not None and int(size) < int(snapshot.volume_size):
        message = (
            f"Volume of size {size}GB is smaller than snapshot '{snapshot.id}', "
            f"expect size >= {snapshot.volume_size}GB"
        )
        raise EC2ClientError(code, message)


def install(cloud: Cloud, nodes: Nodes) -> Store:
    cloud.settings.register_scopable(
        snapshot_seconds=1.0, snapshot_errors=0, snapshot_damages=0, snapshot_damage=""
    )
    store = Store(cloud, nodes)
    _replace_volumes(store)
    _replace_snapshots(store)
    _replace_images()
    _report_default_key()
    cloud.leftovers(
        "volumes",
        lambda: [v.id for b in _backends() for v in list(b.volumes.values())],
    )
    cloud.leftovers(
        "pending_snapshots",
        lambda: [s.id for s in _snapshots() if s.status == "pending"],
    )
    return store


def _backends() -> list[Any]:
    return list(ec2_backends[ACCOUNT].values())


def _snapshots() -> list[Snapshot]:
    return [s for b in _backends() for s in list(b.snapshots.values())]


def _replace_volumes(store: Store) -> None:
    create, delete, modify = (
        EBSBackend.create_volume,
        EBSBackend.delete_volume,
        EBSBackend.modify_volume,
    )

    def create_volume(self: Any, size: Any, zone_name: str, *args: Any, **kwargs: Any) -> Volume:
        snapshot_id = args[0] if args else kwargs.get("snapshot_id")
        if snapshot_id:
            check_snapshot(self.get_snapshot(snapshot_id), size, "InvalidParameterValue")
        volume = create(self, size, zone_name, *args, **kwargs)
        store.create_volume(volume)
        return volume

    def delete_volume(self: Any, volume_id: str) -> Volume:
        volume = delete(self, volume_id)
        store.delete_volume(volume_id)
        return volume

    def modify_volume(self: Any, volume_id: str, *args: Any, **kwargs: Any) -> Volume:
        volume = modify(self, volume_id, *args, **kwargs)
        store.grow_volume(volume)
        return volume

    patch(
        EBSBackend,
        "create_volume",
        create_volume,
        reason="Checks the size against the snapshot and creates the volume's files.",
        link=api("ec2", "CreateVolume"),
    )
    patch(EBSBackend, "delete_volume", delete_volume, reason="Deletes the volume's files.")
    patch(EBSBackend, "modify_volume", modify_volume, reason="Grows the volume's files.")


def _replace_snapshots(store: Store) -> None:
    create, copy, delete = (
        EBSBackend.create_snapshot,
        EBSBackend.copy_snapshot,
        EBSBackend.delete_snapshot,
    )

    def create_snapshot(self: Any, volume_id: str, *args: Any, **kwargs: Any) -> Snapshot:
        snapshot = create(self, volume_id, *args, **kwargs)
        if not kwargs.get("from_ami"):
            # The volume's cache: moto sets the snapshot's tags only after this call.
            cache = cache_of(self.get_volume(volume_id))
            store.start_snapshot(snapshot, store.volume(volume_id), cache)
        return snapshot

    def copy_snapshot(
        self: Any, source_snapshot_id: str, source_region: str, **kwargs: Any
    ) -> Snapshot:
        source = ec2_backends[self.account_id][source_region].get_snapshot(source_snapshot_id)
        if source.status != "completed":
            message = f"Snapshot {source_snapshot_id} is not in the completed state"
            raise EC2ClientError("IncorrectState", message)
        snapshot = copy(self, source_snapshot_id, source_region, **kwargs)
        store.start_snapshot(snapshot, store.snapshot(source_snapshot_id), cache_of(source))
        return snapshot

    def delete_snapshot(self: Any, snapshot_id: str) -> Snapshot:
        for image in self.amis.values():
            mappings = getattr(image, "localcloud_mappings", [])
            if any(m.get("Ebs", {}).get("SnapshotId") == snapshot_id for m in mappings):
                raise InvalidSnapshotInUse(snapshot_id, image.id)
        snapshot = delete(self, snapshot_id)
        store.delete_snapshot(snapshot_id)
        return snapshot

    patch(
        EBSBackend,
        "create_snapshot",
        create_snapshot,
        reason="Copies the volume and completes the snapshot later; moto does so at once.",
        link=api("ec2", "CreateSnapshot"),
    )
    patch(
        EBSBackend,
        "copy_snapshot",
        copy_snapshot,
        reason="Refuses an incomplete source and completes the copy later.",
        link=api("ec2", "CopySnapshot"),
    )
    patch(
        EBSBackend,
        "delete_snapshot",
        delete_snapshot,
        reason="Refuses to delete a snapshot of an image and deletes the snapshot's files.",
        link=api("ec2", "DeleteSnapshot"),
    )
    patch(
        Snapshot,
        "progress",
        property(progress),
        reason="Returns the progress of a pending snapshot.",
        link=api("ec2", "Snapshot"),
    )

    describe = ElasticBlockStore.describe_snapshots

    def describe_snapshots(self: ElasticBlockStore) -> ActionResult:
        """Filters by OwnerIds. moto ignores it and returns the snapshots of public images."""
        answer = describe(self)
        owners = self._get_param("OwnerIds", [])
        if not owners:
            return answer
        wanted = {self.current_account if owner == "self" else owner for owner in owners}
        snapshots = [s for s in answer.result["Snapshots"] if s.owner_id in wanted]
        return ActionResult({"Snapshots": snapshots})

    patch(
        ElasticBlockStore,
        "describe_snapshots",
        describe_snapshots,
        reason="Filters by OwnerIds, which moto ignores.",
        link=api("ec2", "DescribeSnapshots"),
    )

    copy_response = ElasticBlockStore.copy_snapshot

    def copy_snapshot_response(self: ElasticBlockStore) -> ActionResult:
        answer = copy_response(self)
        if self._get_bool_param("Encrypted", False):
            self.ec2_backend.get_snapshot(answer.result["SnapshotId"]).encrypted = True
        return answer

    patch(
        ElasticBlockStore,
        "copy_snapshot",
        copy_snapshot_response,
        reason="Keeps the Encrypted parameter, which moto ignores.",
        link=api("ec2", "CopySnapshot"),
    )


def _replace_images() -> None:
    """Keeps the registered block devices of images."""
    register = AmisResponse.register_image
    mappings = Ami.block_device_mappings.fget

    def register_image(self: AmisResponse) -> ActionResult:
        devices = self._get_param("BlockDeviceMappings", [])
        for device in devices:
            if snapshot_id := device.get("Ebs", {}).get("SnapshotId"):
                self.ec2_backend.get_snapshot(snapshot_id)
        answer = register(self)
        image = self.ec2_backend.amis[answer.result["ImageId"]]
        image.localcloud_mappings = devices
        image.architecture = self._get_param("Architecture") or image.architecture
        image.root_device_name = self._get_param("RootDeviceName") or image.root_device_name
        return answer

    patch(
        AmisResponse,
        "register_image",
        register_image,
        reason="Keeps block devices, architecture and root device of an image.",
        link=api("ec2", "RegisterImage"),
    )
    devices_of = property(
        lambda image: getattr(image, "localcloud_mappings", None) or mappings(image)
    )
    patch(
        Ami,
        "block_device_mappings",
        devices_of,
        reason="Returns the registered block devices.",
        link=api("ec2", "DescribeImages"),
    )


def _report_default_key() -> None:
    def get_ebs_default_kms_key_id(self: ElasticBlockStore) -> ActionResult:
        return ActionResult({"KmsKeyId": default_key(self.region)})

    patch(
        ElasticBlockStore,
        "get_ebs_default_kms_key_id",
        get_ebs_default_kms_key_id,
        reason="Adds an action that Terraform calls.",
        link=api("ec2", "GetEbsDefaultKmsKeyId"),
        adds=True,
    )
    create = KmsBackend.create_alias

    def create_alias(self: Any, target_key_id: str, alias_name: str) -> Any:
        alias = create(self, target_key_id, alias_name)
        if alias_name in RESERVED_ALIASES:
            self.keys[self.get_key_id(target_key_id)].key_manager = "AWS"
        return alias

    patch(
        KmsBackend,
        "create_alias",
        create_alias,
        reason="Marks keys that AWS manages; moto marks every key as a customer's.",
        link=api("kms", "KeyMetadata"),
    )
