"""Calls of `prepull doctor` that moto lacks: quotas, simulation, the default VPC's gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .clouds import RunningCloud, trust, unique

VCPUS = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}


def test_quota_has_its_default_until_a_setting_changes_it(cloud: RunningCloud) -> None:
    quotas = cloud.aws("service-quotas")
    assert quotas.get_service_quota(**VCPUS)["Quota"]["Value"] == 256
    cloud.control("POST", "settings", {"quotas": {"L-1216C47A": 5}})
    assert quotas.get_service_quota(**VCPUS)["Quota"]["Value"] == 5
    cloud.control("POST", "reset")
    assert quotas.get_service_quota(**VCPUS)["Quota"]["Value"] == 256


def test_quotas_of_a_service_are_listed(cloud: RunningCloud) -> None:
    quotas = cloud.aws("service-quotas").list_service_quotas(ServiceCode="ebs")["Quotas"]
    assert [(q["Value"], "initialization rate" in q["QuotaName"]) for q in quotas] == [(5000, True)]


def test_unknown_quota_is_refused(cloud: RunningCloud) -> None:
    quotas = cloud.aws("service-quotas")
    for call in (
        lambda: quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-00000000"),
        lambda: quotas.list_service_quotas(ServiceCode="sqs"),
    ):
        with pytest.raises(ClientError, match="NoSuchResourceException"):
            call()


def test_default_vpc_leads_to_the_internet(cloud: RunningCloud) -> None:
    ec2 = cloud.aws("ec2", "eu-north-1")
    [vpc] = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    [table] = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])[
        "RouteTables"
    ]
    routes = {r["DestinationCidrBlock"]: r["GatewayId"] for r in table["Routes"]}
    [gateway] = ec2.describe_internet_gateways()["InternetGateways"]
    assert routes["0.0.0.0/0"] == gateway["InternetGatewayId"]
    assert gateway["Attachments"] == [{"State": "available", "VpcId": vpc["VpcId"]}]


@pytest.fixture
def role(cloud: RunningCloud) -> str:
    """A role that may launch encrypted volumes, and whose boundary excludes other actions."""
    name, iam = unique("simulated"), cloud.aws("iam")
    boundary = iam.create_policy(
        PolicyName=name, PolicyDocument=document({"Action": "ec2:*"}, {"Action": "s3:GetObject"})
    )["Policy"]["Arn"]
    iam.create_role(
        RoleName=name,
        AssumeRolePolicyDocument=trust("lambda"),
        PermissionsBoundary=boundary,
    )
    iam.put_role_policy(
        RoleName=name,
        PolicyName="test",
        PolicyDocument=document(
            {"Action": "ec2:RunInstances", "Condition": {"Bool": {"ec2:Encrypted": "true"}}},
            {"Action": "sqs:SendMessage"},
            {"Action": "s3:GetObject", "Effect": "Deny"},
            {
                "Action": "ec2:CreateTags",
                "Condition": {"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}},
            },
        ),
    )
    return f"arn:aws:iam::123456789012:role/{name}"


def document(*statements: dict[str, Any]) -> str:
    complete = [{"Effect": "Allow", "Resource": "*"} | s for s in statements]
    return json.dumps({"Version": "2012-10-17", "Statement": complete})


def simulate(cloud: RunningCloud, role: str, action: str, **context: list[str]) -> dict[str, Any]:
    kinds = {"ec2:Encrypted": "boolean", "aws:TagKeys": "stringList"}
    entries = [
        {"ContextKeyName": key, "ContextKeyType": kinds[key], "ContextKeyValues": values}
        for key, values in context.items()
    ]
    answer = cloud.aws("iam").simulate_principal_policy(
        PolicySourceArn=role,
        ActionNames=[action],
        ResourceArns=["arn:aws:ec2:eu-west-1:123456789012:volume/vol-0123456789abcdef0"],
        ContextEntries=entries,
    )
    assert not answer["IsTruncated"]
    [result] = answer["EvaluationResults"]
    return dict(result)


def test_simulation_decides_by_policies_and_context(cloud: RunningCloud, role: str) -> None:
    for action, context, decision in (
        ("ec2:RunInstances", {"ec2:Encrypted": ["true"]}, "allowed"),
        ("ec2:RunInstances", {"ec2:Encrypted": ["false"]}, "implicitDeny"),
        ("ec2:RunInstances", {}, "implicitDeny"),
        ("ec2:CreateTags", {"aws:TagKeys": ["a", "b"]}, "allowed"),
        ("ec2:CreateTags", {"aws:TagKeys": ["a", "c"]}, "implicitDeny"),
        ("s3:GetObject", {}, "explicitDeny"),
    ):
        result = simulate(cloud, role, action, **context)
        assert result["EvalDecision"] == decision, (action, context)


def test_simulation_reports_the_permissions_boundary(cloud: RunningCloud, role: str) -> None:
    result = simulate(cloud, role, "sqs:SendMessage")
    assert result["EvalDecision"] == "implicitDeny"
    assert result["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}


def test_simulation_of_unknown_role_is_refused(cloud: RunningCloud) -> None:
    with pytest.raises(ClientError, match="NoSuchEntity"):
        simulate(cloud, "arn:aws:iam::123456789012:role/nobody", "ec2:RunInstances")


def test_simulation_uses_no_grant(cloud: RunningCloud, role: str) -> None:
    simulate(cloud, role, "ec2:RunInstances", **{"ec2:Encrypted": ["true"]})
    name = role.rpartition("/")[2]
    grants = [g for g in cloud.control("GET", "grants") if g["role"] == name]
    assert grants and all(g["calls"] == 0 for g in grants)
    assert not [d for d in cloud.control("GET", "denials") if d["role"] == name]
