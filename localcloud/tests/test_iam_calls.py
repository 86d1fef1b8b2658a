"""Checks of calls against a role's policies, by resource and condition key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from .clouds import COUNTING, RunningCloud, trust, unique, until
from .images import Pusher
from .machines import QUICK, Machines

ACCOUNT, HOME, AWAY = "123456789012", "eu-west-1", "eu-central-1"
OURS = [{"Key": "prepull:cache", "Value": "web"}]
KEY = f"arn:aws:kms:{HOME}:{ACCOUNT}:key/mrk-0123456789abcdef0123456789abcdef"
KEY_AWAY = KEY.replace(HOME, AWAY)


@dataclass(frozen=True)
class Caller:
    """A role, and clients that call with its credentials."""

    cloud: RunningCloud
    role: str

    def may(self, *statements: dict[str, Any]) -> None:
        """Replaces all statements of the role."""
        complete = [{"Effect": "Allow", "Resource": "*"} | s for s in statements]
        document = {"Version": "2012-10-17", "Statement": complete}
        self.cloud.aws("iam").put_role_policy(
            RoleName=self.role, PolicyName="test", PolicyDocument=json.dumps(document)
        )

    def aws(self, service: str, region: str = HOME) -> Any:
        keys = self.cloud.control("GET", f"credentials/{self.role}")
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=f"http://127.0.0.1:{self.cloud.port}",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys["AWS_SESSION_TOKEN"],
            config=Config(retries={"total_max_attempts": 1}),
        )

    def denials(self) -> list[dict[str, Any]]:
        return [d for d in self.cloud.control("GET", "denials") if d["role"] == self.role]

    def uses(self) -> dict[str, int]:
        grants = self.cloud.control("GET", "grants")
        return {
            f"{g['statement']} {g['action']}": g["calls"] for g in grants if g["role"] == self.role
        }


@pytest.fixture
def caller(cloud: RunningCloud) -> Iterator[Caller]:
    cloud.control("POST", "settings", {"enforce_iam": True})
    role = unique("caller")
    iam = cloud.aws("iam")
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust("lambda"))
    caller = Caller(cloud, role)
    caller.may({"Action": "nothing:AtAll"})
    yield caller
    iam.delete_role_policy(RoleName=role, PolicyName="test")
    iam.delete_role(RoleName=role)


def refused(call: Any, *words: str) -> None:
    """Checks that the call is denied without a grant, with these words in the message."""
    with pytest.raises(ClientError) as raised:
        call()
    error = raised.value.response["Error"]
    assert error["Code"] in ("UnauthorizedOperation", "AccessDeniedException"), error
    for word in words:
        assert word in error["Message"]


# Checked callers, and the texts of denials


def test_empty_role_is_denied_and_other_callers_allowed(
    caller: Caller,
) -> None:
    refused(caller.aws("ec2").describe_instances, caller.role, "ec2:DescribeInstances", "*")
    caller.cloud.aws("ec2").describe_instances()


@pytest.mark.parametrize(
    ("service", "method", "arguments", "code", "status"),
    [
        ("ec2", "describe_instances", {}, "UnauthorizedOperation", 403),
        ("ssm", "get_parameter", {"Name": "/a"}, "AccessDeniedException", 400),
        ("lambda", "invoke", {"FunctionName": "a"}, "AccessDeniedException", 403),
        ("ecr", "get_authorization_token", {}, "AccessDeniedException", 400),
    ],
)
def test_denial_has_text_of_the_service(
    caller: Caller, service: str, method: str, arguments: dict[str, str], code: str, status: int
) -> None:
    with pytest.raises(ClientError) as raised:
        getattr(caller.aws(service), method)(**arguments)
    answer = raised.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    assert f"assumed-role/{caller.role}/" in answer["Error"]["Message"]


def test_unlisted_call_is_denied_to_administrator(
    caller: Caller,
) -> None:
    caller.may({"Action": "*"})
    refused(caller.aws("ec2").describe_vpcs, "ec2:DescribeVpcs", "requests.py")


def test_unsupported_policy_allows_nothing(caller: Caller) -> None:
    unknown = {"NumericLessThan": {"aws:MultiFactorAuthAge": "3600"}}
    caller.may({"Action": "*"}, {"Action": "ec2:*", "Condition": unknown})
    refused(caller.aws("ec2").describe_instances, "NumericLessThan")


def test_setting_disables_enforcement(caller: Caller) -> None:
    caller.cloud.control("POST", "settings", {"enforce_iam": False})
    caller.aws("ec2").describe_instances()


def test_attached_policies_allow_and_boundary_limits(caller: Caller) -> None:
    iam = caller.cloud.aws("iam")

    def managed(action: str) -> str:
        statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": statement})
        created = iam.create_policy(PolicyName=unique("policy"), PolicyDocument=document)
        return created["Policy"]["Arn"]

    iam.attach_role_policy(RoleName=caller.role, PolicyArn=(arn := managed("ec2:Describe*")))
    caller.aws("ec2").describe_instances()
    boundary = managed("ec2:DescribeVolumes")
    iam.put_role_permissions_boundary(RoleName=caller.role, PermissionsBoundary=boundary)
    caller.aws("ec2").describe_volumes()
    refused(caller.aws("ec2").describe_instances, "boundary")
    iam.detach_role_policy(RoleName=caller.role, PolicyArn=arn)


def test_grants_count_calls_and_denials_are_kept(caller: Caller) -> None:
    caller.may(
        {"Sid": "See", "Action": ["ec2:DescribeInstances", "ec2:DescribeVolumes"]},
        {"Action": "ec2:Describe*"},
    )
    ec2 = caller.aws("ec2")
    ec2.describe_instances()
    ec2.describe_instances()
    assert caller.uses() == {
        "See ec2:DescribeInstances": 2,
        "See ec2:DescribeVolumes": 0,
        "1 ec2:Describe*": 2,
    }
    refused(lambda: ec2.delete_volume(VolumeId=volume(caller.cloud)))
    (denied,) = caller.denials()
    assert denied["action"] == "ec2:DeleteVolume" and ":volume/vol-" in denied["resource"]
    assert denied["session"] == "handed-out" and caller.role in denied["message"]
    caller.cloud.control("DELETE", "grants")
    caller.cloud.control("DELETE", "denials")
    assert set(caller.uses().values()) == {0} and caller.denials() == []


def test_credentials_exist_only_for_existing_roles(cloud: RunningCloud) -> None:
    assert cloud.control("GET", "credentials/nobody")["status"] == 404


# EC2 and EBS


def volume(cloud: RunningCloud, tags: Any = None) -> str:
    tagged = [{"ResourceType": "volume", "Tags": tags}] if tags else []
    return cloud.aws("ec2").create_volume(
        AvailabilityZone=f"{HOME}a", Size=1, TagSpecifications=tagged
    )["VolumeId"]


def snapshot(cloud: RunningCloud, tags: Any = None) -> str:
    tagged = [{"ResourceType": "snapshot", "Tags": tags}] if tags else []
    cloud.control("POST", "settings", {"snapshot_seconds": 0})
    ec2 = cloud.aws("ec2")
    created = ec2.create_snapshot(VolumeId=volume(cloud), TagSpecifications=tagged)["SnapshotId"]
    until(
        lambda: ec2.describe_snapshots(SnapshotIds=[created])["Snapshots"][0]["State"] != "pending"
    )
    return created


def tag(kind: str, tags: Any = OURS) -> dict[str, Any]:
    return {"ResourceType": kind, "Tags": tags}


TAGGED = {"StringLike": {"aws:ResourceTag/prepull:cache": "*"}}
TAGGING = {"StringLike": {"aws:RequestTag/prepull:cache": "*"}}


@pytest.mark.parametrize(
    ("action", "make", "remove"),
    [
        ("ec2:DeleteVolume", volume, lambda ec2, id_: ec2.delete_volume(VolumeId=id_)),
        ("ec2:DeleteSnapshot", snapshot, lambda ec2, id_: ec2.delete_snapshot(SnapshotId=id_)),
    ],
)
def test_deleting_untagged_resource_is_denied(
    caller: Caller, action: str, make: Any, remove: Any
) -> None:
    caller.may({"Action": action, "Condition": TAGGED})
    foreign = make(caller.cloud, [{"Key": "prepull", "Value": "web"}])
    refused(lambda: remove(caller.aws("ec2"), foreign), foreign)
    remove(caller.aws("ec2"), make(caller.cloud, OURS))
    remove(caller.cloud.aws("ec2"), foreign)


def test_missing_resource_is_reported_as_missing(caller: Caller) -> None:
    missing = "snap-0123456789abcdef0"
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        caller.aws("ec2").delete_snapshot(SnapshotId=missing)


def test_tagging_depends_on_tag_keys_and_resource(caller: Caller) -> None:
    only_state = {"ForAllValues:StringEquals": {"aws:TagKeys": ["prepull:state"]}}
    caller.may({"Action": "ec2:CreateTags", "Condition": TAGGED | only_state})
    ours, foreign = snapshot(caller.cloud, OURS), snapshot(caller.cloud)
    ec2, state = caller.aws("ec2"), [{"Key": "prepull:state", "Value": "published"}]
    ec2.create_tags(Resources=[ours], Tags=state)
    refused(lambda: ec2.create_tags(Resources=[ours], Tags=OURS), ours)
    refused(lambda: ec2.create_tags(Resources=[ours], Tags=state + OURS), ours)
    refused(lambda: ec2.create_tags(Resources=[foreign], Tags=state), foreign)
    refused(lambda: ec2.create_tags(Resources=[ours, foreign], Tags=state), foreign)


def test_create_snapshot_depends_on_volume_and_tags(caller: Caller) -> None:
    volumes, snapshots = f"arn:aws:ec2:{HOME}:{ACCOUNT}:volume/*", f"arn:aws:ec2:{HOME}::snapshot/*"
    at_creation = {"StringEquals": {"ec2:CreateAction": "CreateSnapshot"}}
    caller.may(
        {"Action": "ec2:CreateSnapshot", "Resource": volumes, "Condition": TAGGED},
        {"Action": "ec2:CreateSnapshot", "Resource": snapshots, "Condition": TAGGING},
        {"Action": "ec2:CreateTags", "Resource": snapshots, "Condition": at_creation},
    )
    ours, foreign = volume(caller.cloud, OURS), volume(caller.cloud)
    ec2, tags = caller.aws("ec2"), [tag("snapshot")]
    created = ec2.create_snapshot(VolumeId=ours, TagSpecifications=tags)["SnapshotId"]
    refused(lambda: ec2.create_snapshot(VolumeId=ours), "snapshot/*")
    refused(lambda: ec2.create_snapshot(VolumeId=foreign, TagSpecifications=tags), foreign)
    # A tag on an existing resource is not a tag at creation.
    refused(lambda: ec2.create_tags(Resources=[created], Tags=OURS), "ec2:CreateTags")


def test_copy_snapshot_depends_on_both_regions_and_keys(caller: Caller) -> None:
    source = snapshot(caller.cloud, OURS)
    away = caller.aws("ec2", AWAY)
    home_arn, away_arn = (f"arn:aws:ec2:{region}::snapshot/*" for region in (HOME, AWAY))
    from_home = {
        "Action": "ec2:CopySnapshot",
        "Resource": home_arn,
        "Condition": {"StringEquals": {"ec2:Owner": ACCOUNT}},
    }
    to_away = {"Action": "ec2:CopySnapshot", "Resource": away_arn, "Condition": TAGGING}
    tagging = {
        "Action": "ec2:CreateTags",
        "Resource": away_arn,
        "Condition": {"StringEquals": {"ec2:CreateAction": "CopySnapshot"}},
    }
    via = {"StringEquals": {"kms:ViaService": f"ec2.{AWAY}.amazonaws.com"}}
    use = {
        "Action": ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateData*", "kms:ReEncrypt*"],
        "Resource": KEY_AWAY,
        "Condition": via,
    }
    grant = {
        "Action": "kms:CreateGrant",
        "Resource": KEY_AWAY,
        "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}},
    }

    def copy(tags: Any = OURS, **more: Any) -> Any:
        return away.copy_snapshot(
            SourceRegion=HOME,
            SourceSnapshotId=source,
            TagSpecifications=[tag("snapshot", tags)],
            **more,
        )

    caller.may(from_home, to_away, tagging)
    copy()
    refused(lambda: copy([{"Key": "a", "Value": "b"}]), AWAY)
    refused(lambda: copy(Encrypted=True, KmsKeyId=KEY_AWAY), "kms:", KEY_AWAY)
    caller.may(from_home, to_away, tagging, use, grant)
    copy(Encrypted=True, KmsKeyId=KEY_AWAY)
    caller.may(from_home, to_away, tagging, use)
    refused(lambda: copy(Encrypted=True, KmsKeyId=KEY_AWAY), "kms:CreateGrant")
    caller.may(from_home, to_away)
    refused(copy, "ec2:CreateTags")
    caller.may(to_away, tagging)
    refused(copy, source)
    # The reference lists no tags of the source.
    caller.may(from_home | {"Condition": TAGGED}, to_away, tagging)
    refused(copy, source)


def test_sharing_snapshot_with_unlisted_account_is_denied(caller: Caller) -> None:
    accounts = {"ForAllValues:StringEquals": {"ec2:Add/userId": ["210987654321"]}}
    nobody_else = {"Null": {"ec2:Add/group": "true"}}
    condition = TAGGED | accounts | nobody_else
    caller.may({"Action": "ec2:ModifySnapshotAttribute", "Condition": condition})
    ours, foreign = snapshot(caller.cloud, OURS), snapshot(caller.cloud)

    def share(id_: str, *permissions: dict[str, str]) -> Any:
        return caller.aws("ec2").modify_snapshot_attribute(
            SnapshotId=id_,
            Attribute="createVolumePermission",
            CreateVolumePermission={"Add": list(permissions)},
        )

    good, other = {"UserId": "210987654321"}, {"UserId": "111111111111"}
    share(ours, good)
    refused(lambda: share(ours, other), ours)
    refused(lambda: share(ours, good, other), ours)
    refused(lambda: share(ours, {"Group": "all"}), ours)
    refused(lambda: share(foreign, good), foreign)


@dataclass(frozen=True)
class Launch:
    """A builder's launch, and the policy that allows exactly it."""

    machines: Machines
    caller: Caller
    profile: str
    base: str
    subnet: str

    def statements(self) -> dict[str, dict[str, Any]]:
        def arn(kind: str, id_: str = "*") -> str:
            return f"arn:aws:ec2:{HOME}:{ACCOUNT}:{kind}/{id_}"

        profile = f"arn:aws:iam::{ACCOUNT}:instance-profile/{self.profile}"
        snapshots = f"arn:aws:ec2:{HOME}::snapshot/*"
        amazons = {"StringEquals": {"ec2:Owner": "amazon"}}
        new = [arn("instance"), arn("volume"), arn("network-interface")]
        return {
            "instance": {
                "Resource": arn("instance"),
                "Condition": TAGGING
                | {"ArnEquals": {"ec2:InstanceProfile": profile}}
                | {"StringEquals": {"ec2:MetadataHttpTokens": "required"}},
            },
            "volume": {
                "Resource": arn("volume"),
                "Condition": TAGGING | {"Bool": {"ec2:Encrypted": "true"}},
            },
            "interface": {"Resource": arn("network-interface"), "Condition": TAGGING},
            "network": {"Resource": [arn("subnet", self.subnet), arn("security-group")]},
            "image": {
                "Resource": [f"arn:aws:ec2:{HOME}::image/*", snapshots],
                "Condition": amazons,
            },
            "base": {"Resource": snapshots, "Condition": TAGGED},
            "tags": {
                "Action": "ec2:CreateTags",
                "Resource": new,
                "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
            },
            "role": {
                "Action": "iam:PassRole",
                "Resource": f"arn:aws:iam::{ACCOUNT}:role/{self.profile}",
                "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            },
        }

    def allow(self, *without: str) -> None:
        statements = self.statements()
        kept = [s for name, s in statements.items() if name not in without]
        self.caller.may(*({"Action": "ec2:RunInstances"} | s for s in kept))

    def request(self) -> dict[str, Any]:
        ebs = {"Encrypted": True, "VolumeType": "gp3"}
        return {
            "ImageId": self.machines.image(),
            "InstanceType": "m7i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": self.subnet,
            "IamInstanceProfile": {"Name": self.profile},
            "MetadataOptions": {"HttpTokens": "required"},
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/xvda", "Ebs": ebs},
                {"DeviceName": "/dev/xvdb", "Ebs": ebs | {"SnapshotId": self.base}},
            ],
            "TagSpecifications": [tag("instance"), tag("volume"), tag("network-interface")],
        }

    def run(self, **changes: Any) -> None:
        request = self.request() | changes
        started = self.caller.aws("ec2").run_instances(**request)["Instances"][0]
        self.machines.terminate(started["InstanceId"])


@pytest.fixture
def launch(caller: Caller) -> Launch:
    machines = Machines(caller.cloud)
    caller.cloud.control("POST", "settings", QUICK)
    subnet = machines.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    return Launch(machines, caller, machines.profile(), snapshot(caller.cloud, OURS), subnet)


def test_launch_needs_grant_for_each_resource(
    launch: Launch,
) -> None:
    launch.allow()
    launch.run()
    for missing in launch.statements():
        launch.allow(missing)
        refused(launch.run)


def test_launch_with_other_resources_is_denied(launch: Launch) -> None:
    launch.allow()
    machines, cloud = launch.machines, launch.caller.cloud
    own_image = cloud.aws("ec2").register_image(
        Name=unique("image"),
        Architecture="x86_64",
        RootDeviceName="/dev/xvda",
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}],
    )["ImageId"]
    subnet = machines.ec2.describe_subnets()["Subnets"][1]["SubnetId"]
    encrypted = {"Encrypted": True}
    foreign = encrypted | {"SnapshotId": snapshot(cloud)}

    def volumes(system: Any, data: Any) -> dict[str, Any]:
        devices = {"/dev/xvda": system, "/dev/xvdb": data}
        return {"BlockDeviceMappings": [{"DeviceName": d, "Ebs": e} for d, e in devices.items()]}

    for changes, word in (
        ({"ImageId": own_image}, own_image),
        ({"SubnetId": subnet}, subnet),
        ({"IamInstanceProfile": {"Name": machines.profile()}}, "instance/*"),
        ({"MetadataOptions": {"HttpTokens": "optional"}}, "instance/*"),
        ({"MetadataOptions": {}}, "instance/*"),
        (volumes({}, encrypted), "volume/*"),
        (volumes(encrypted, {}), "volume/*"),
        (volumes(encrypted, foreign), foreign["SnapshotId"]),
        ({"TagSpecifications": []}, "instance/*"),
        ({"TagSpecifications": [tag("instance"), tag("volume")]}, "network-interface/*"),
        ({"KeyName": "mine"}, "key-pair/mine"),
    ):
        refused(lambda changes=changes: launch.run(**changes), "ec2:RunInstances", word)


def test_launch_with_foreign_network_interface_is_denied(launch: Launch) -> None:
    launch.allow()
    interface = launch.machines.ec2.create_network_interface(SubnetId=launch.subnet)
    foreign = interface["NetworkInterface"]["NetworkInterfaceId"]
    attached = {"DeviceIndex": 0, "NetworkInterfaceId": foreign}
    request = launch.request() | {"NetworkInterfaces": [attached]}
    del request["SubnetId"]
    refused(lambda: launch.caller.aws("ec2").run_instances(**request), "ec2:RunInstances", foreign)
    launch.machines.ec2.delete_network_interface(NetworkInterfaceId=foreign)


@pytest.fixture
def default_key(cloud: RunningCloud) -> Iterator[str]:
    """A customer-managed key as the account's default key for EBS."""
    ec2, before = cloud.aws("ec2"), cloud.aws("ec2").get_ebs_default_kms_key_id()["KmsKeyId"]
    key = cloud.aws("kms").create_key()["KeyMetadata"]["Arn"]
    ec2.modify_ebs_default_kms_key_id(KmsKeyId=key)
    yield key
    ec2.modify_ebs_default_kms_key_id(KmsKeyId=before)


def test_launch_needs_grants_for_customer_managed_default_key(
    launch: Launch, default_key: str
) -> None:
    use = {
        "Action": ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateData*", "kms:ReEncrypt*"],
        "Resource": default_key,
        "Condition": {"StringEquals": {"kms:ViaService": f"ec2.{HOME}.amazonaws.com"}},
    }
    grant = {
        "Action": "kms:CreateGrant",
        "Resource": default_key,
        "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}},
    }
    statements = [{"Action": "ec2:RunInstances"} | s for s in launch.statements().values()]
    launch.caller.may(*statements)
    refused(launch.run, "kms:", default_key)
    launch.caller.may(*statements, use)
    refused(launch.run, "kms:CreateGrant", default_key)
    launch.caller.may(*statements, use, grant)
    launch.run()


def test_default_key_is_managed_by_aws_in_a_new_account(cloud: RunningCloud) -> None:
    region = "eu-south-1"
    key = cloud.aws("ec2", region).get_ebs_default_kms_key_id()["KmsKeyId"]
    assert key == f"arn:aws:kms:{region}:{ACCOUNT}:alias/aws/ebs"
    metadata = cloud.aws("kms", region).describe_key(KeyId=key)["KeyMetadata"]
    assert metadata["KeyManager"] == "AWS" and metadata["KeyState"] == "Enabled"


def test_terminating_foreign_instance_is_denied(launch: Launch) -> None:
    launch.caller.may({"Action": "ec2:TerminateInstances", "Condition": TAGGED})
    ours = launch.machines.launch(TagSpecifications=[tag("instance")])
    foreign = launch.machines.launch()
    ec2 = launch.caller.aws("ec2")
    refused(lambda: ec2.terminate_instances(InstanceIds=[ours, foreign]), foreign)
    assert launch.machines.state(ours) != "terminated"
    ec2.terminate_instances(InstanceIds=[ours])
    launch.machines.terminate(foreign)
    launch.machines.await_state(ours, "terminated")


# Systems Manager


def test_send_command_depends_on_document_and_instance(launch: Launch) -> None:
    caller, machines = launch.caller, launch.machines
    document = unique("document")
    content = {
        "schemaVersion": "2.2",
        "mainSteps": [
            {"action": "aws:runShellScript", "name": "a", "inputs": {"runCommand": ["true"]}}
        ],
    }
    machines.ssm.create_document(Name=document, DocumentType="Command", Content=json.dumps(content))
    caller.may(
        {
            "Action": "ssm:SendCommand",
            "Resource": f"arn:aws:ssm:{HOME}:{ACCOUNT}:document/{document}",
        },
        {
            "Action": "ssm:SendCommand",
            "Resource": f"arn:aws:ec2:{HOME}:{ACCOUNT}:instance/*",
            "Condition": {"StringLike": {"ssm:resourceTag/prepull:cache": "*"}},
        },
    )
    ours = machines.launch(TagSpecifications=[tag("instance")])
    foreign = machines.launch()
    machines.await_ready(ours)
    ssm = caller.aws("ssm")
    ssm.send_command(DocumentName=document, InstanceIds=[ours])
    refused(lambda: ssm.send_command(DocumentName=document, InstanceIds=[foreign]), foreign)
    shell = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    refused(lambda: ssm.send_command(InstanceIds=[ours], **shell), ":document/AWS-RunShellScript")
    machines.terminate(ours)
    machines.terminate(foreign)
    machines.ssm.delete_document(Name=document)


def test_get_parameter_depends_on_name(caller: Caller) -> None:
    below = unique("/prepull")
    arn = f"arn:aws:ssm:{HOME}:{ACCOUNT}:parameter{below}/*"
    caller.may(
        {
            "Action": ["ssm:PutParameter", "ssm:GetParameter*", "ssm:DeleteParameter"],
            "Resource": arn,
        }
    )
    ssm = caller.aws("ssm")
    ssm.put_parameter(Name=f"{below}/a", Value="1", Type="String")
    assert ssm.get_parameter(Name=f"{below}/a")["Parameter"]["Value"] == "1"
    ssm.get_parameters_by_path(Path=f"{below}/b")
    refused(lambda: ssm.get_parameters_by_path(Path=below), f"parameter{below}")
    refused(lambda: ssm.put_parameter(Name="/other", Value="1", Type="String"), "parameter/other")
    refused(lambda: ssm.get_parameter(Name="/other"), "parameter/other")
    refused(lambda: ssm.delete_parameter(Name="/other"), "parameter/other")
    ssm.delete_parameter(Name=f"{below}/a")


def test_public_parameters_have_arn_without_account(caller: Caller) -> None:
    name = "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/latest/image_id"
    caller.may({"Action": "ssm:GetParameter", "Resource": f"arn:aws:ssm:{HOME}::parameter{name}"})
    caller.aws("ssm").get_parameter(Name=name)
    caller.may(
        {"Action": "ssm:GetParameter", "Resource": f"arn:aws:ssm:{HOME}:{ACCOUNT}:parameter/*"}
    )
    refused(lambda: caller.aws("ssm").get_parameter(Name=name), f"{HOME}::parameter{name}")


def test_secret_needs_grant_for_customer_managed_key(caller: Caller) -> None:
    ssm, secrets = caller.cloud.aws("ssm"), caller.cloud.aws("secretsmanager")
    own, managed = unique("/own"), unique("/managed")
    ssm.put_parameter(Name=own, Value="1", Type="SecureString", KeyId=KEY)
    ssm.put_parameter(Name=managed, Value="1", Type="SecureString")
    secret = secrets.create_secret(Name=unique("secret"), SecretString="1", KmsKeyId=KEY)["ARN"]
    read = {"Action": ["ssm:GetParameter", "secretsmanager:GetSecretValue"]}

    def parameter(name: str) -> Any:
        return caller.aws("ssm").get_parameter(Name=name, WithDecryption=True)

    def value() -> Any:
        return caller.aws("secretsmanager").get_secret_value(SecretId=secret)

    caller.may(read)
    parameter(managed)
    caller.aws("ssm").get_parameter(Name=own)
    refused(lambda: parameter(own), "kms:Decrypt", KEY)
    refused(value, "kms:Decrypt", KEY)

    def decrypt(service: str, key: str, arn: str) -> dict[str, Any]:
        condition = {
            "kms:ViaService": f"{service}.{HOME}.amazonaws.com",
            f"kms:EncryptionContext:{key}": arn,
        }
        return {"Action": "kms:Decrypt", "Condition": {"StringEquals": condition}}

    arn = f"arn:aws:ssm:{HOME}:{ACCOUNT}:parameter{own}"
    caller.may(
        read,
        decrypt("ssm", "PARAMETER_ARN", arn),
        decrypt("secretsmanager", "SecretARN", secret),
    )
    parameter(own)
    value()
    caller.may(read, decrypt("ssm", "PARAMETER_ARN", arn + "2"))
    refused(lambda: parameter(own), "kms:Decrypt")


# Everything else


def test_put_events_depends_on_bus_and_sources(caller: Caller) -> None:
    bus = f"arn:aws:events:{HOME}:{ACCOUNT}:event-bus/default"
    ours = {
        "ForAllValues:StringEquals": {"events:source": "prepull"},
        "Null": {"events:source": "false"},
    }
    caller.may({"Action": "events:PutEvents", "Resource": bus, "Condition": ours})

    def put(*sources: str) -> Any:
        entries = [{"Source": source, "DetailType": "Test", "Detail": "{}"} for source in sources]
        return caller.aws("events").put_events(Entries=entries)

    put("prepull", "prepull")
    refused(lambda: put("other"), bus)
    refused(lambda: put("prepull", "other"), bus)


def test_import_through_cache_needs_its_permissions(caller: Caller) -> None:
    prefix = unique("cache")
    caller.cloud.aws("ecr").create_pull_through_cache_rule(
        ecrRepositoryPrefix=prefix,
        upstreamRegistryUrl=caller.cloud.ready["registries"]["private"]["host"],
    )
    name = f"{prefix}/team/imported"
    Pusher(caller.cloud, "private").image("team/imported", [], tag="v1")
    arn = f"arn:aws:ecr:{HOME}:{ACCOUNT}:repository/{name}"

    def pull() -> Any:
        wanted = [{"imageTag": "v1"}]
        return caller.aws("ecr").batch_get_image(repositoryName=name, imageIds=wanted)

    caller.may({"Action": "ecr:BatchGetImage", "Resource": arn})
    refused(pull, "ecr:BatchImportUpstreamImage", arn)
    importing = {"Action": ["ecr:BatchGetImage", "ecr:BatchImportUpstreamImage"], "Resource": arn}
    caller.may(importing)
    refused(pull, "ecr:CreateRepository", arn)
    caller.may(importing, {"Action": "ecr:CreateRepository", "Resource": arn})
    assert pull()["images"]
    caller.may(importing)
    assert pull()["images"]


@pytest.mark.parametrize(
    ("service", "method", "arguments", "action", "arn"),
    [
        (
            "lambda",
            "invoke",
            {"FunctionName": "a"},
            "lambda:InvokeFunction",
            f"lambda:{HOME}:{ACCOUNT}:function:a",
        ),
        (
            "lambda",
            "invoke",
            {"FunctionName": f"arn:aws:lambda:{HOME}:{ACCOUNT}:function:a"},
            "lambda:InvokeFunction",
            f"lambda:{HOME}:{ACCOUNT}:function:a",
        ),
        (
            "ecr",
            "batch_get_image",
            {"repositoryName": "team/api", "imageIds": [{"imageTag": "v1"}]},
            "ecr:BatchGetImage",
            f"ecr:{HOME}:{ACCOUNT}:repository/team/api",
        ),
        (
            "stepfunctions",
            "start_execution",
            {"stateMachineArn": f"arn:aws:states:{HOME}:{ACCOUNT}:stateMachine:a"},
            "states:StartExecution",
            f"states:{HOME}:{ACCOUNT}:stateMachine:a",
        ),
        (
            "stepfunctions",
            "list_executions",
            {"stateMachineArn": f"arn:aws:states:{HOME}:{ACCOUNT}:stateMachine:a"},
            "states:ListExecutions",
            f"states:{HOME}:{ACCOUNT}:stateMachine:a",
        ),
        (
            "stepfunctions",
            "describe_execution",
            {"executionArn": f"arn:aws:states:{HOME}:{ACCOUNT}:execution:a:b"},
            "states:DescribeExecution",
            f"states:{HOME}:{ACCOUNT}:execution:a:b",
        ),
    ],
)
def test_call_depends_on_arn_of_its_resource(
    caller: Caller, service: str, method: str, arguments: Any, action: str, arn: str
) -> None:
    def call() -> Any:
        return getattr(caller.aws(service), method)(**arguments)

    refused(call, action, f"arn:aws:{arn}")
    caller.may({"Action": action, "Resource": f"arn:aws:{arn}"})
    # The call is allowed now, so the service reports a missing resource.
    with pytest.raises(ClientError, match=r"NotFound|DoesNotExist"):
        call()
    assert caller.uses() == {f"0 {action}": 1}


# Calls of services, with a role or without


def test_schedule_uses_its_role_for_target_and_dead_letters(caller: Caller) -> None:
    cloud, name = caller.cloud, unique("scheduled")
    function = cloud.deploy(name, COUNTING)
    url, queue = cloud.queue(unique("dead"))
    scheduler = cloud.aws("scheduler")
    target = {
        "Arn": function,
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/{caller.role}",
        "DeadLetterConfig": {"Arn": queue},
        "Input": json.dumps({"a": 1}),
    }
    call = {"Sid": "Call", "Action": "lambda:InvokeFunction", "Resource": function}
    bury = {"Sid": "Bury", "Action": "sqs:SendMessage", "Resource": queue}
    caller.may(bury)
    cloud.control("POST", "settings", {"schedule_speed": 600})
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression="rate(1 minute)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target=target,
    )
    assert cloud.receive(url) == {"a": 1}
    assert {d["action"] for d in caller.denials()} == {"lambda:InvokeFunction"}
    caller.may(call, bury)
    until(lambda: caller.uses()["Call lambda:InvokeFunction"] > 0)
    scheduler.delete_schedule(Name=name)


def test_rule_invokes_function_by_function_policy(caller: Caller) -> None:
    cloud, name = caller.cloud, unique("called")
    function = cloud.deploy(name, COUNTING)
    url, queue = cloud.queue(unique("dead"))
    events, source = cloud.aws("events"), unique("source")
    rule = events.put_rule(Name=name, EventPattern=json.dumps({"source": [source]}))["RuleArn"]
    target = {"Id": "a", "Arn": function, "DeadLetterConfig": {"Arn": queue}}
    events.put_targets(Rule=name, Targets=[target])

    def permit(statement: str, source_arn: str) -> None:
        cloud.aws("lambda").add_permission(
            FunctionName=name,
            StatementId=statement,
            Action="lambda:InvokeFunction",
            Principal="events.amazonaws.com",
            SourceArn=source_arn,
        )

    def put() -> None:
        entry = {"Source": source, "DetailType": "Test", "Detail": "{}"}
        events.put_events(Entries=[entry])

    def buried() -> int:
        return len(cloud.aws("sqs").receive_message(QueueUrl=url).get("Messages", []))

    permit("other", rule + "-2")
    put()
    until(lambda: buried() == 1)
    denied = cloud.control("GET", "denials")[-1]
    assert (denied["role"], denied["resource"]) == ("events.amazonaws.com", function)
    permit("this", rule)
    put()
    assert buried() == 0
    events.remove_targets(Rule=name, Ids=["a"])
    events.delete_rule(Name=name)


def test_function_uses_its_role_for_logs_and_failures(caller: Caller) -> None:
    cloud, name = caller.cloud, unique("failing")
    url, queue = cloud.queue(unique("dead"))
    function = cloud.deploy(name, COUNTING, role=f"arn:aws:iam::{ACCOUNT}:role/{caller.role}")
    cloud.aws("lambda").put_function_event_invoke_config(
        FunctionName=name,
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": queue}},
    )
    logs = f"arn:aws:logs:{HOME}:{ACCOUNT}:log-group:/aws/lambda/{name}:*"
    caller.may(
        {"Sid": "Report", "Action": "sqs:SendMessage", "Resource": queue},
        {"Sid": "Log", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": logs},
    )
    payload = json.dumps({"failures": 9, "error": "Any"})
    cloud.aws("lambda").invoke(FunctionName=name, InvocationType="Event", Payload=payload)
    assert cloud.receive(url)["requestContext"]["functionArn"].startswith(function)
    assert caller.uses() == {
        "Report sqs:SendMessage": 1,
        "Log logs:CreateLogStream": 1,
        "Log logs:PutLogEvents": 1,
    }
