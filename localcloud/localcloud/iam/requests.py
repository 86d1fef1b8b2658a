"""Permissions that a call needs: actions, resources and condition keys.

Each action that prepull's roles call has an entry, taken from the Service
Authorization Reference (docs.aws.amazon.com/service-authorization/latest/reference).
The context lacks keys that it does not list for an action and a resource, so that a
condition on such a key denies here as it does on AWS. The context has the listed keys
that our conditions can use. `Null` and `ForAllValues` hold if a key is absent, so
their keys must be here.

A missing resource needs no permission: the service reports the error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from moto.core.responses import BaseResponse
from moto.ec2.models import ec2_backends
from moto.ecr.models import ecr_backends
from moto.iam.models import iam_backends
from moto.kms.models import kms_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.ssm.models import ssm_backends

from .. import bottlerocket
from ..cloud import ACCOUNT
from ..ebs import default_key
from ..ec2 import merge_devices
from ..ecr import rule_of
from .policy import Ask, Values

Context = dict[str, Values]
Asks = Iterator[Ask]


class Unjudged(Exception):
    """The table below lacks the call."""


def asks(service: str, action: str, response: BaseResponse) -> list[Ask]:
    """Returns all permissions that a call needs."""
    entry = _ENTRIES.get(f"{service}:{action}")
    if entry is None:
        raise Unjudged(
            f"localcloud does not know what {service}:{action} asks of IAM: "
            "add it to localcloud/iam/requests.py"
        )
    return list(entry(response))


# EC2 and EBS

_KINDS = {
    "eni": "network-interface",
    "i": "instance",
    "snap": "snapshot",
    "vol": "volume",
}


_RUN = "ec2:RunInstances"


def _run_instances(response: BaseResponse) -> Asks:
    region, tags = response.region, _tags_of(response)
    image = ec2_backends[ACCOUNT][region].amis.get(response._get_param("ImageId"))
    if image is None:
        return
    owner: Context = {"ec2:Owner": image.owner_alias or image.owner_id}
    yield Ask(_RUN, _arn(region, "image", image.id), owner | _resource_tags(region, image.id))
    profile = _profile(response._get_param("IamInstanceProfile") or {})
    yield Ask(_RUN, _arn(region, "instance"), _launched(response, profile, tags["instance"]))
    yield from _launched_into(response, tags["network-interface"])
    mappings = merge_devices(
        image.block_device_mappings, response._get_param("BlockDeviceMappings", [])
    )
    yield from _launched_with(region, [mapping["Ebs"] for mapping in mappings], tags["volume"])
    if key_pair := response._get_param("KeyName"):
        yield Ask(_RUN, _arn(region, "key-pair", key_pair))
    if template := response._get_param("LaunchTemplate"):
        yield Ask(_RUN, _arn(region, "launch-template", template.get("LaunchTemplateId", "*")))
    yield from _tags_on_create("RunInstances", region, tags)
    # Through an instance, its launcher gains all permissions of the instance's role.
    for role in profile.roles if profile is not None else []:
        yield Ask("iam:PassRole", role.arn, {"iam:PassedToService": "ec2.amazonaws.com"})


def _launched(response: BaseResponse, profile: Any, tags: Mapping[str, str]) -> Context:
    """The context of the new instance itself."""
    metadata = response._get_param("MetadataOptions") or {}
    context = _request_tags(tags) | {
        "ec2:InstanceType": response._get_param("InstanceType", "m1.small"),
        "ec2:MetadataHttpEndpoint": metadata.get("HttpEndpoint", "enabled"),
        "ec2:MetadataHttpTokens": metadata.get("HttpTokens", "optional"),
    }
    return context | ({"ec2:InstanceProfile": profile.arn} if profile is not None else {})


def _launched_into(response: BaseResponse, tags: Mapping[str, str]) -> Asks:
    region, get = response.region, response._get_param
    for interface in get("NetworkInterfaces", []) or [{}]:
        # The request does not contain a default subnet or group.
        subnet = interface.get("SubnetId") or get("SubnetId") or "*"
        groups = interface.get("Groups") or get("SecurityGroupIds", []) or ["*"]
        if existing := interface.get("NetworkInterfaceId"):
            # The request tags only what it creates.
            yield Ask(
                _RUN, _arn(region, "network-interface", existing), _existing(region, existing)
            )
        else:
            yield Ask(_RUN, _arn(region, "network-interface"), _request_tags(tags))
        yield Ask(_RUN, _arn(region, "subnet", subnet), _resource_tags(region, subnet))
        for group in groups:
            yield Ask(_RUN, _arn(region, "security-group", group), _resource_tags(region, group))


def _launched_with(region: str, volumes: list[dict[str, Any]], tags: Mapping[str, str]) -> Asks:
    for volume in volumes:
        context = _request_tags(tags) | {
            "ec2:Encrypted": _bool(volume.get("Encrypted", False)),
            "ec2:VolumeType": volume.get("VolumeType", "gp2"),
        }
        if base := volume.get("SnapshotId"):
            context["ec2:ParentSnapshot"] = _arn(region, "snapshot", base)
            yield Ask(_RUN, _arn(region, "snapshot", base), _existing(region, base))
        yield Ask(_RUN, _arn(region, "volume"), context)
    encrypted = [volume for volume in volumes if _bool(volume.get("Encrypted")) == "true"]
    for key in {volume.get("KmsKeyId") or default_key(region) for volume in encrypted}:
        yield from _ebs_encryption(key, region)


def _create_tags(response: BaseResponse) -> Asks:
    tags = {tag["Key"]: tag.get("Value", "") for tag in response._get_param("Tags", [])}
    for id_ in response._get_param("Resources", []):
        if _exists(response.region, id_):
            context = _existing(response.region, id_) | _request_tags(tags)
            yield Ask("ec2:CreateTags", _arn(response.region, _kind(id_), id_), context)


def _create_snapshot(response: BaseResponse) -> Asks:
    region, tags = response.region, _tags_of(response)
    volume = response._get_param("VolumeId")
    if not _exists(region, volume):
        return
    parent = {"ec2:ParentVolume": _arn(region, "volume", volume)}
    yield Ask("ec2:CreateSnapshot", _arn(region, "volume", volume), _existing(region, volume))
    context = _request_tags(tags["snapshot"]) | parent
    yield Ask("ec2:CreateSnapshot", _arn(region, "snapshot"), context)
    yield from _tags_on_create("CreateSnapshot", region, tags)


def _copy_snapshot(response: BaseResponse) -> Asks:
    """Needs both source and copy; the source's tags are not in the context."""
    region, home = response.region, response._get_param("SourceRegion")
    source, tags = response._get_param("SourceSnapshotId"), _tags_of(response)
    if not _exists(home, source):
        return
    snapshot = ec2_backends[ACCOUNT][home].snapshots[source]
    context: Context = {"ec2:Owner": _owner(snapshot), "ec2:Encrypted": _bool(snapshot.encrypted)}
    yield Ask("ec2:CopySnapshot", _arn(home, "snapshot", source), context)
    copy = _request_tags(tags["snapshot"]) | {
        "ec2:ParentSnapshot": _arn(home, "snapshot", source),
        "ec2:Encrypted": _bool(response._get_param("Encrypted", False)),
    }
    yield Ask("ec2:CopySnapshot", _arn(region, "snapshot"), copy)
    yield from _tags_on_create("CopySnapshot", region, tags)
    if key := snapshot.volume.kms_key_id:
        yield from _ebs_encryption(key, home)
    if _bool(response._get_param("Encrypted")) == "true":
        yield from _ebs_encryption(response._get_param("KmsKeyId") or default_key(region), region)


def _modify_snapshot_attribute(response: BaseResponse) -> Asks:
    id_ = response._get_param("SnapshotId")
    if not _exists(response.region, id_):
        return
    context = _existing(response.region, id_)
    permission = response._get_param("CreateVolumePermission") or {}
    for change in ("Add", "Remove"):
        for kind, field in (("userId", "UserId"), ("group", "Group")):
            given = tuple(p[field] for p in permission.get(change, []) if field in p)
            if given:
                context[f"ec2:{change}/{kind}"] = given
    yield Ask("ec2:ModifySnapshotAttribute", _arn(response.region, "snapshot", id_), context)


def _on_existing(action: str, parameter: str) -> Callable[[BaseResponse], Asks]:
    """An action on existing resources, with their IDs in one parameter."""

    def entry(response: BaseResponse) -> Asks:
        named = response._get_param(parameter)
        for id_ in named if isinstance(named, list) else [named]:
            if _exists(response.region, id_):
                arn = _arn(response.region, _kind(id_), id_)
                yield Ask(action, arn, _existing(response.region, id_))

    return entry


def _arn(region: str, kind: str, id_: str = "*") -> str:
    """Returns the ARN of an EC2 resource; `*` stands for one that the call creates."""
    account = "" if kind in ("snapshot", "image") else ACCOUNT
    return f"arn:aws:ec2:{region}:{account}:{kind}/{id_}"


def _kind(id_: str) -> str:
    prefix = id_.partition("-")[0]
    if prefix not in _KINDS:
        raise Unjudged(f"localcloud does not know which resource {id_} is: see iam/requests.py")
    return _KINDS[prefix]


def _exists(region: str, id_: str) -> bool:
    backend = ec2_backends[ACCOUNT][region]
    kind = _kind(id_)
    if kind == "instance":
        return any(instance.id == id_ for instance in backend.all_instances())
    stores: dict[str, Mapping[str, Any]] = {
        "network-interface": backend.enis,
        "snapshot": backend.snapshots,
        "volume": backend.volumes,
    }
    return id_ in stores[kind]


def _existing(region: str, id_: str) -> Context:
    """Returns the context keys of an existing resource."""
    context = _resource_tags(region, id_)
    backend = ec2_backends[ACCOUNT][region]
    if id_ in backend.snapshots:
        context["ec2:Owner"] = _owner(backend.snapshots[id_])
    elif id_ in backend.volumes:
        context["ec2:Encrypted"] = _bool(backend.volumes[id_].encrypted)
    return context


def _owner(snapshot: Any) -> str:
    """Per the reference: `amazon`, `aws-marketplace` or the ID of an account."""
    images = snapshot.ec2_backend.amis.values()
    owned_by_amazon = any(
        image.owner_id == bottlerocket.OWNER and image.ebs_snapshot.id == snapshot.id
        for image in images
    )
    return "amazon" if owned_by_amazon else snapshot.owner_id


def _resource_tags(region: str, id_: str) -> Context:
    tags = ec2_backends[ACCOUNT][region].tags.get(id_, {})
    return {
        f"{prefix}:ResourceTag/{key}": value
        for key, value in tags.items()
        for prefix in ("aws", "ec2")
    }


def _request_tags(tags: Mapping[str, str]) -> Context:
    context: Context = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    return context | {"aws:TagKeys": tuple(tags)}


def _tags_of(response: BaseResponse) -> Mapping[str, dict[str, str]]:
    """Returns the tags of the resources that the call creates, by kind of resource."""
    given: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for specification in response._get_param("TagSpecifications", []):
        for tag in specification.get("Tags", []):
            given[specification["ResourceType"]][tag["Key"]] = tag.get("Value", "")
    return given


def _tags_on_create(action: str, region: str, tags: Mapping[str, dict[str, str]]) -> Asks:
    """Source: EC2 User Guide, "Grant permission to tag Amazon EC2 resources during creation"."""
    for kind, given in tags.items():
        if given:
            context = _request_tags(given) | {"ec2:CreateAction": action}
            yield Ask("ec2:CreateTags", _arn(region, kind), context)


def _bool(value: Any) -> str:
    return "true" if value in (True, "true") else "false"


def _profile(asked: Mapping[str, str]) -> Any:
    """Returns the instance profile of a launch, by ARN or name."""
    for profile in iam_backends[ACCOUNT]["aws"].instance_profiles.values():
        if asked.get("Arn") == profile.arn or asked.get("Name") == profile.name:
            return profile
    return None


# KMS, which other services call on behalf of the caller. A key that AWS manages for a
# service admits every user of the service, so only a customer's own key needs permissions.

_FOR_EBS = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)


def _ebs_encryption(key: str, region: str) -> Asks:
    """Source: EBS User Guide, "Requirements for Amazon EBS encryption", for every resource."""
    if _is_aws_managed(key):
        return
    if not key.startswith("arn:"):
        raise Unjudged(f"localcloud does not know which key {key} is: see iam/requests.py")
    via: Context = {"kms:ViaService": f"ec2.{region}.amazonaws.com"}
    for action in _FOR_EBS:
        yield Ask(action, key, via)
    yield Ask("kms:CreateGrant", key, via | {"kms:GrantIsForAWSResource": "true"})


def _decryption(key: str | None, service: str, region: str, encryption_context: Context) -> Asks:
    if key is None or _is_aws_managed(key):
        return
    arn = key if key.startswith("arn:") else f"arn:aws:kms:{region}:{ACCOUNT}:key/{key}"
    context: Context = {"kms:ViaService": f"{service}.{region}.amazonaws.com"}
    yield Ask("kms:Decrypt", arn, context | encryption_context)


def _is_aws_managed(key: str) -> bool:
    if "alias/aws/" in key:
        return True
    backends = list(kms_backends[ACCOUNT].values())
    keys = (backend.keys.get(key.rpartition("/")[2]) for backend in backends)
    return any(found is not None and found.key_manager == "AWS" for found in keys)


# Systems Manager


def _send_command(response: BaseResponse) -> Asks:
    region, document = response.region, response._get_param("DocumentName")
    if not document.startswith("arn:"):
        # ARNs of AWS's own documents have no account.
        account = "" if document.startswith("AWS-") else ACCOUNT
        document = f"arn:aws:ssm:{region}:{account}:document/{document}"
    yield Ask("ssm:SendCommand", document)
    for id_ in response._get_param("InstanceIds", []):
        if _exists(region, id_):
            tags = ec2_backends[ACCOUNT][region].tags.get(id_, {})
            context: Context = {
                f"{prefix}/{key}": value
                for key, value in tags.items()
                for prefix in ("aws:ResourceTag", "ssm:resourceTag")
            }
            yield Ask("ssm:SendCommand", _arn(region, "instance", id_), context)


def _get_parameter(response: BaseResponse) -> Asks:
    region, name = response.region, response._get_param("Name")
    arn = _parameter_arn(region, name)
    yield Ask("ssm:GetParameter", arn)
    parameter = ssm_backends[ACCOUNT][region].get_parameter(name)
    if response._get_param("WithDecryption") and parameter is not None:
        encryption_context: Context = {"kms:EncryptionContext:PARAMETER_ARN": arn}
        yield from _decryption(parameter.keyid, "ssm", region, encryption_context)


def _on_parameter(action: str, parameter: str = "Name") -> Callable[[BaseResponse], Asks]:
    def entry(response: BaseResponse) -> Asks:
        yield Ask(action, _parameter_arn(response.region, response._get_param(parameter)))

    return entry


def _parameter_arn(region: str, name: str) -> str:
    if name.startswith("arn:"):
        return name
    # ARNs of AWS's public parameters have no account.
    account = "" if name.startswith("/aws/service/") else ACCOUNT
    return f"arn:aws:ssm:{region}:{account}:parameter/{name.removeprefix('/')}"


# Everything else


def _put_events(response: BaseResponse) -> Asks:
    buses: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for entry in response._get_param("Entries"):
        name = entry.get("EventBusName") or "default"
        arn = f"arn:aws:events:{response.region}:{ACCOUNT}:event-bus/{name}"
        buses[name if name.startswith("arn:") else arn][entry.get("Source", "")] = None
    for bus, sources in buses.items():
        yield Ask("events:PutEvents", bus, {"events:source": tuple(sources)})


def _invoke(response: BaseResponse) -> Asks:
    name = unquote(response.path.rsplit("/", 2)[-2])
    yield invoke_function(response.region, name)


def invoke_function(region: str, name: str) -> Ask:
    arn = name if name.startswith("arn:") else f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"
    return Ask("lambda:InvokeFunction", arn)


def _batch_get_image(response: BaseResponse) -> Asks:
    registry = response._get_param("registryId") or ACCOUNT
    name = response._get_param("repositoryName")
    arn = f"arn:aws:ecr:{response.region}:{registry}:repository/{name}"
    yield Ask("ecr:BatchGetImage", arn)
    # The first pull through a cache imports the image with the caller's permissions.
    if rule_of(name) is not None:
        yield Ask("ecr:BatchImportUpstreamImage", arn)
        if name not in ecr_backends[registry][response.region].repositories:
            yield Ask("ecr:CreateRepository", arn)


def _get_secret_value(response: BaseResponse) -> Asks:
    secrets = secretsmanager_backends[ACCOUNT][response.region].secrets
    secret = secrets.get(response._get_param("SecretId"))
    if secret is None:
        return
    yield Ask("secretsmanager:GetSecretValue", secret.arn)
    encryption_context: Context = {"kms:EncryptionContext:SecretARN": secret.arn}
    yield from _decryption(secret.kms_key_id, "secretsmanager", response.region, encryption_context)


def _named_by(action: str, parameter: str) -> Callable[[BaseResponse], Asks]:
    """An action whose resource's ARN is a parameter."""

    def entry(response: BaseResponse) -> Asks:
        yield Ask(action, response._get_param(parameter))

    return entry


def _without_resource(action: str) -> Callable[[BaseResponse], Asks]:
    def entry(_response: BaseResponse) -> Asks:
        yield Ask(action)

    return entry


_WITHOUT_RESOURCE = (
    "ec2:DescribeImages",
    "ec2:DescribeInstances",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:DescribeSnapshots",
    "ec2:DescribeVolumes",
    "ecr:GetAuthorizationToken",
    "ssm:DescribeInstanceInformation",
    "ssm:GetCommandInvocation",
    "ssm:ListCommandInvocations",
)

_ENTRIES: dict[str, Callable[[BaseResponse], Asks]] = {
    "ec2:CopySnapshot": _copy_snapshot,
    "ec2:CreateSnapshot": _create_snapshot,
    "ec2:CreateTags": _create_tags,
    "ec2:DeleteSnapshot": _on_existing("ec2:DeleteSnapshot", "SnapshotId"),
    "ec2:DeleteVolume": _on_existing("ec2:DeleteVolume", "VolumeId"),
    "ec2:GetConsoleOutput": _on_existing("ec2:GetConsoleOutput", "InstanceId"),
    "ec2:ModifySnapshotAttribute": _modify_snapshot_attribute,
    "ec2:RunInstances": _run_instances,
    "ec2:TerminateInstances": _on_existing("ec2:TerminateInstances", "InstanceIds"),
    "ecr:BatchGetImage": _batch_get_image,
    "events:PutEvents": _put_events,
    "lambda:Invoke": _invoke,
    "secretsmanager:GetSecretValue": _get_secret_value,
    "ssm:DeleteParameter": _on_parameter("ssm:DeleteParameter"),
    "ssm:GetParameter": _get_parameter,
    "ssm:GetParametersByPath": _on_parameter("ssm:GetParametersByPath", "Path"),
    "ssm:PutParameter": _on_parameter("ssm:PutParameter"),
    "ssm:SendCommand": _send_command,
    "states:DescribeExecution": _named_by("states:DescribeExecution", "executionArn"),
    "states:ListExecutions": _named_by("states:ListExecutions", "stateMachineArn"),
    "states:StartExecution": _named_by("states:StartExecution", "stateMachineArn"),
    **{action: _without_resource(action) for action in _WITHOUT_RESOURCE},
}
