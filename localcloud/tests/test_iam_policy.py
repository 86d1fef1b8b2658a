"""The policy evaluator decides as IAM does.

The cases follow the examples of the IAM User Guide
(docs.aws.amazon.com/IAM/latest/UserGuide), on pages that each test names.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from localcloud.iam.policy import Ask, Statement, UnknownConstruct, Values, decide, parse

TABLE = "arn:aws:dynamodb:eu-west-1:123456789012:table/books"
LOGS = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/books"


def policy(*statements: dict[str, Any]) -> tuple[Statement, ...]:
    complete = [{"Effect": "Allow", "Action": "*", "Resource": "*"} | s for s in statements]
    return parse("test", json.dumps({"Version": "2012-10-17", "Statement": complete}))


def allowed(statements: tuple[Statement, ...], ask: Ask) -> bool:
    return decide(statements, None, ask).allowed


def holds(operator: str, key: str, wanted: Any, context: dict[str, Values]) -> bool:
    statements = policy({"Condition": {operator: {key: wanted}}})
    return allowed(statements, Ask("ec2:RunInstances", "*", context))


# reference_policies_evaluation-logic.html


def test_unlisted_action_is_denied() -> None:
    decision = decide(policy({"Action": "s3:List*"}), None, Ask("iam:CreatePolicy"))
    assert not decision.allowed
    assert decision.reason == "no identity-based policy allows the iam:CreatePolicy action"


def test_explicit_deny_overrides_every_allow() -> None:
    # Like the page's policy: reading is allowed, reports are denied.
    statements = policy(
        {"Action": ["iam:Get*", "iam:List*"]}, {"Effect": "Deny", "Action": "iam:*Report"}
    )
    assert allowed(statements, Ask("iam:GetUser"))
    decision = decide(statements, None, Ask("iam:GetCredentialReport"))
    assert (decision.allowed, decision.reason) == (
        False,
        "a policy denies the iam:GetCredentialReport action explicitly",
    )


def test_deny_with_unmet_condition_denies_nothing() -> None:
    only_encrypted = {"Bool": {"aws:SecureTransport": "false"}}
    statements = policy({}, {"Effect": "Deny", "Condition": only_encrypted})
    assert allowed(statements, Ask("sqs:SendMessage", "*", {"aws:SecureTransport": "true"}))
    assert not allowed(statements, Ask("sqs:SendMessage", "*", {"aws:SecureTransport": "false"}))


@pytest.mark.parametrize(
    ("identity", "boundary", "expected"),
    [
        ("s3:*", "s3:*", True),
        ("*", "s3:*", True),
        # access_policies_boundaries.html: the boundary alone grants nothing.
        ("iam:*", "s3:*", False),
        ("s3:*", "ec2:*", False),
    ],
)
def test_boundary_limits_and_grants_nothing(identity: str, boundary: str, expected: bool) -> None:
    ask = Ask("s3:GetObject", "arn:aws:s3:::bucket/key")
    decision = decide(policy({"Action": identity}), policy({"Action": boundary}), ask)
    assert decision.allowed == expected


def test_deny_in_boundary_overrides_allow() -> None:
    boundary = policy({}, {"Effect": "Deny", "Action": "s3:DeleteObject"})
    assert not decide(policy({}), boundary, Ask("s3:DeleteObject")).allowed


def test_decision_lists_allowing_statements() -> None:
    statements = policy({"Sid": "Read", "Action": ["s3:Get*", "s3:List*"]}, {"Action": "s3:*"})
    used = decide(statements, None, Ask("s3:ListBucket")).allowed_by
    assert [(s.policy, s.sid, action) for s, action in used] == [
        ("test", "Read", "s3:List*"),
        ("test", "1", "s3:*"),
    ]


# reference_policies_elements_action.html, reference_policies_elements_resource.html


@pytest.mark.parametrize(
    ("pattern", "action", "expected"),
    [
        ("ec2:StartInstances", "ec2:StartInstances", True),
        ("EC2:startinstances", "ec2:StartInstances", True),
        ("iam:*AccessKey*", "iam:UpdateAccessKey", True),
        ("iam:*AccessKey*", "iam:CreateUser", False),
        ("sqs:*", "sqs:SendMessage", True),
        ("sqs:*", "sns:Publish", False),
        ("*", "ec2:RunInstances", True),
    ],
)
def test_actions_match_wildcards_in_any_case(pattern: str, action: str, expected: bool) -> None:
    assert allowed(policy({"Action": pattern}), Ask(action)) == expected


@pytest.mark.parametrize(
    ("pattern", "resource", "expected"),
    [
        (TABLE, TABLE, True),
        (TABLE, TABLE + "s", False),
        ("arn:aws:dynamodb:eu-west-1:123456789012:table/*", TABLE, True),
        ("arn:aws:dynamodb:*:123456789012:table/b??ks", TABLE, True),
        ("arn:aws:dynamodb:*:123456789012:table/b?ks", TABLE, False),
        ("arn:aws:dynamodb:us-*:123456789012:table/*", TABLE, False),
        # Brackets are literal characters, and matching is case-sensitive.
        ("arn:aws:dynamodb:eu-west-1:123456789012:table/[b]ooks", TABLE, False),
        ("arn:aws:dynamodb:eu-west-1:123456789012:table/Books", TABLE, False),
        ("*", TABLE, True),
        ("*", "*", True),
        # An action without resource types is not allowed on a resource.
        (TABLE, "*", False),
        (LOGS + ":*", LOGS + ":log-stream:a", True),
        (LOGS + ":*", LOGS, False),
    ],
)
def test_resources_match_part_by_part(pattern: str, resource: str, expected: bool) -> None:
    statements = policy({"Resource": pattern})
    assert allowed(statements, Ask("dynamodb:GetItem", resource)) == expected


# reference_policies_elements_condition_operators.html

PROFILE = "arn:aws:iam::123456789012:instance-profile/builder"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:topic-1"


@pytest.mark.parametrize(
    ("operator", "wanted", "given", "expected"),
    [
        ("StringEquals", "iamuser-admin", "iamuser-admin", True),
        ("StringEquals", "iamuser-admin", "IamUser-Admin", False),
        ("StringEquals", ["a", "b"], "b", True),
        ("StringEquals", "a*", "ab", False),
        ("StringEquals", "a", None, False),
        ("StringLike", ["", "home/", "home/x*"], "home/xavier/", True),
        ("StringLike", "home/?", "home/xy", False),
        ("StringLike", "*", "", True),
        ("StringLike", "*", None, False),
        ("Bool", "true", "true", True),
        ("Bool", True, "true", True),
        ("Bool", "true", "false", False),
        ("Bool", "true", None, False),
        ("ArnEquals", PROFILE, PROFILE, True),
        ("ArnEquals", PROFILE, PROFILE + "2", False),
        ("ArnEquals", PROFILE, None, False),
        # ArnEquals and ArnLike are equal, including wildcards.
        ("ArnEquals", "arn:aws:sns:*:123456789012:topic-?", TOPIC, True),
        ("ArnLike", "arn:aws:sns:*:123456789012:topic-?", TOPIC, True),
        ("ArnLike", "arn:aws:sns:*:topic-1", TOPIC, False),
        ("Null", "true", None, True),
        ("Null", "true", "now", False),
        ("Null", "false", "now", True),
        ("Null", "false", None, False),
    ],
)
def test_operator_compares_as_documented(
    operator: str, wanted: Any, given: str | None, expected: bool
) -> None:
    context: dict[str, Values] = {} if given is None else {"a:key": given}
    assert holds(operator, "a:key", wanted, context) == expected


def test_condition_key_ignores_case_of_key_and_tag() -> None:
    assert holds("StringEquals", "aws:requesttag/TEAM", "a", {"aws:RequestTag/team": "a"})


def test_statement_needs_all_conditions() -> None:
    both = {"StringEquals": {"a:x": "1", "a:y": "2"}, "Bool": {"a:z": "true"}}
    statements = policy({"Condition": both})
    complete: dict[str, Values] = {"a:x": "1", "a:y": "2", "a:z": "true"}
    assert allowed(statements, Ask("a:b", "*", complete))
    for missing in complete:
        context = {key: value for key, value in complete.items() if key != missing}
        assert not allowed(statements, Ask("a:b", "*", context))


# reference_policies_condition-single-vs-multi-valued-context-keys.html


@pytest.mark.parametrize(
    ("quantifier", "given", "expected"),
    [
        ("ForAllValues", ("environment", "cost-center"), True),
        ("ForAllValues", ("environment",), True),
        ("ForAllValues", ("environment", "owner"), False),
        ("ForAllValues", (), True),
        ("ForAllValues", None, True),
        ("ForAnyValue", ("environment", "owner"), True),
        ("ForAnyValue", ("owner",), False),
        ("ForAnyValue", (), False),
        ("ForAnyValue", None, False),
    ],
)
def test_set_operator_compares_all_or_any_values(
    quantifier: str, given: tuple[str, ...] | None, expected: bool
) -> None:
    context: dict[str, Values] = {} if given is None else {"aws:TagKeys": given}
    wanted = ["environment", "cost-center"]
    assert holds(f"{quantifier}:StringEquals", "aws:TagKeys", wanted, context) == expected


def test_multivalued_key_without_set_operator_fails() -> None:
    with pytest.raises(UnknownConstruct, match="multivalued"):
        holds("StringEquals", "aws:TagKeys", "a", {"aws:TagKeys": ("a",)})


# Unknown constructs


@pytest.mark.parametrize(
    "statement",
    [
        {"Condition": {"NumericLessThan": {"a:b": "1"}}},
        {"Condition": {"StringEqualsIfExists": {"a:b": "1"}}},
        {"Condition": {"StringNotEquals": {"a:b": "1"}}},
        {"Condition": {"ForSomeValues:StringEquals": {"a:b": "1"}}},
        {"Condition": {"Null": {"a:b": "maybe"}}},
        {"Condition": {"ForAnyValue:Null": {"a:b": "true"}}},
        {"Condition": {"StringEquals": {"a:b": "${aws:username}"}}},
        {"Resource": "arn:aws:s3:::home/${aws:username}"},
        {"Resource": "bucket"},
        # A wildcard stays within its part of the ARN, so that two parts are missing here.
        {"Resource": "arn:aws:dynamodb:*:table/books"},
        {"NotAction": "iam:*"},
        {"NotResource": TABLE},
        {"Principal": "*"},
        {"Effect": "allow"},
        {"Resource": 1},
    ],
)
def test_unknown_construct_fails(statement: dict[str, Any]) -> None:
    with pytest.raises(UnknownConstruct):
        policy(statement)
