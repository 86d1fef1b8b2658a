"""Checks of statements and permissions against the Service Authorization Reference."""

from __future__ import annotations

from typing import Any

import pytest

from localcloud.iam.policy import Ask, Condition, Statement
from localcloud.iam.reference import ask_problems, statement_problems

HERE = "eu-west-1:123456789012"
INSTANCES = f"arn:aws:ec2:{HERE}:instance/*"
VOLUMES = f"arn:aws:ec2:{HERE}:volume/*"
SNAPSHOTS = "arn:aws:ec2:*::snapshot/*"
DOCUMENTS = f"arn:aws:ssm:{HERE}:document/prepull-*"
TAG = "prepull:cache"


def statement(
    actions: str, resources: str = "*", *conditions: tuple[str, str, tuple[str, ...]]
) -> Statement:
    found = tuple(Condition(*condition) for condition in conditions)
    return Statement(
        "policy", "1", "Allow", tuple(actions.split()), tuple(resources.split()), found
    )


@pytest.mark.parametrize(
    "valid",
    [
        statement("ec2:DescribeInstances ec2:Describe*"),
        statement("EC2:runinstances", f"{INSTANCES} {VOLUMES}",
                  ("StringLike", f"aws:RequestTag/{TAG}", ("*",))),
        statement("ec2:DeleteSnapshot", SNAPSHOTS,
                  ("StringLike", f"AWS:resourcetag/{TAG}", ("*",))),
        statement("ec2:CreateTags", SNAPSHOTS,
                  ("ForAllValues:StringEquals", "aws:TagKeys", ("prepull:state",)),
                  ("Null", "aws:TagKeys", ("false",))),
        statement("ssm:SendCommand", f"{DOCUMENTS} {INSTANCES}"),
        statement("ssm:SendCommand", INSTANCES, ("StringLike", f"ssm:resourceTag/{TAG}", ("*",))),
        statement("kms:Decrypt", "*", ("StringEquals", "kms:EncryptionContext:SecretARN", ("a",))),
        statement("ec2:CopySnapshot", SNAPSHOTS, ("Bool", "ec2:Encrypted", ("true",))),
        statement("ec2:RunInstances", "*", ("Null", "aws:TagKeys", ("false",))),
        statement("sqs:SendMessage", f"arn:aws:sqs:{HERE}:prepull",
                  ("Bool", "aws:SecureTransport", ("true",))),
    ],
)  # fmt: skip
def test_supported_statement_has_no_problem(valid: Statement) -> None:
    assert list(statement_problems(valid)) == []


@pytest.mark.parametrize(
    ("invalid", "problem"),
    [
        (statement("ec2:DescribeSnapshot"), "ec2:DescribeSnapshot is not an action"),
        (statement("nothing:AtAll"), "nothing:AtAll is not an action"),
        (statement("ec2:Snapshot*"), "ec2:Snapshot* is not an action"),
        (statement("ec2:DescribeSnapshots", SNAPSHOTS),
         f"ec2:DescribeSnapshots supports none of the resources {SNAPSHOTS}"),
        # ARNs of snapshots have no account.
        (statement("ec2:DeleteSnapshot", f"arn:aws:ec2:{HERE}:snapshot/*"),
         f"ec2:DeleteSnapshot supports none of the resources arn:aws:ec2:{HERE}:snapshot/*"),
        (statement("ec2:RunInstances", f"{INSTANCES} {DOCUMENTS}"),
         f"ec2:RunInstances do not support the resource {DOCUMENTS}"),
        (statement("ec2:TerminateInstances", INSTANCES,
                   ("StringLike", f"aws:RequestTag/{TAG}", ("*",))),
         f"ec2:TerminateInstances on {INSTANCES} does not support the key aws:RequestTag/{TAG}"),
        (statement("ec2:CopySnapshot", "*", ("StringLike", f"aws:ResourceTag/{TAG}", ("*",))),
         f"ec2:CopySnapshot on * does not support the key aws:ResourceTag/{TAG}"),
        (statement("ec2:DescribeInstances", "*", ("StringEquals", "ec2:InstanceTyp", ("a",))),
         "ec2:DescribeInstances on * does not support the key ec2:InstanceTyp"),
        (statement("ec2:CreateTags", SNAPSHOTS, ("StringEquals", "aws:TagKeys", ("a",))),
         "ec2:CreateTags: StringEquals does not fit aws:TagKeys, a ArrayOfString"),
        (statement("ec2:CreateTags", SNAPSHOTS,
                   ("ForAllValues:StringEquals", "aws:TagKeys", ("prepull:state",))),
         "ForAllValues on aws:TagKeys needs Null false on the same key"),
        (statement("ec2:CopySnapshot", SNAPSHOTS, ("StringEquals", "ec2:Encrypted", ("true",))),
         "ec2:CopySnapshot: StringEquals does not fit ec2:Encrypted, a Bool"),
    ],
)  # fmt: skip
def test_unsupported_statement_has_a_problem(invalid: Statement, problem: str) -> None:
    assert problem in list(statement_problems(invalid))


@pytest.mark.parametrize(
    ("action", "resource", "context", "problem"),
    [
        ("ec2:RunInstances", INSTANCES, {f"aws:RequestTag/{TAG}": "a", "aws:TagKeys": (TAG,)}, ""),
        ("ec2:DescribeInstances", "*", {}, ""),
        ("ec2:RunInstance", INSTANCES, {}, "is not an action"),
        ("ec2:RunInstances", f"arn:aws:ec2:{HERE}:document/a", {}, "does not support the resource"),
        (
            "ec2:RunInstances",
            INSTANCES,
            {f"aws:ResourceTag/{TAG}": "a"},
            "does not support the key",
        ),
        ("ec2:RunInstances", INSTANCES, {"aws:TagKeys": TAG}, "aws:TagKeys is a ArrayOfString"),
        ("ec2:DeleteVolume", VOLUMES, {"ec2:Encrypted": ("true",)}, "ec2:Encrypted is a Bool"),
    ],
)
def test_permission_is_checked_by_resource_and_key(
    action: str, resource: str, context: dict[str, Any], problem: str
) -> None:
    found = list(ask_problems(Ask(action, resource, context)))
    assert len(found) == bool(problem)
    assert not found or problem in found[0]
