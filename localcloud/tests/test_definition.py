"""The retriers and expressions of build.asl.json, run by the interpreter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .clouds import COUNTING, RunningCloud, unique
from .test_stepfunctions import invoke, run

FOLDER = Path(__file__).parents[2] / "statemachine"
STATES = json.loads((FOLDER / "build.asl.json").read_text())["States"]
RETRIERS = json.loads((FOLDER / "retry.json").read_text())


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        ("Throttled", 6),
        ("Lambda.ClientExecutionTimeoutException", 6),
        ("Lambda.TooManyRequestsException", 30),
        ("AccessDenied", 3),
    ],
)
def test_shared_retriers_outlast_failures_of_aws(
    cloud: RunningCloud, error: str, failures: int
) -> None:
    cloud.control("POST", "settings", {"retry_speed": 10_000})
    function = cloud.deploy(unique("flaky"), COUNTING)
    states = {"Try": invoke(function, Retry=RETRIERS, End=True)}
    ended = run(cloud, states, failures=failures, error=error)
    assert json.loads(ended["output"])["attempt"] == failures + 1


def test_busy_lambda_is_retried_for_an_hour() -> None:
    (busy,) = (r for r in RETRIERS if "Lambda.TooManyRequestsException" in r["ErrorEquals"])
    waits = [
        min(busy["IntervalSeconds"] * busy["BackoffRate"] ** n, busy["MaxDelaySeconds"])
        for n in range(busy["MaxAttempts"])
    ]
    # With full jitter, an attempt waits for half of this time on average.
    assert busy["JitterStrategy"] == "FULL"
    assert 3300 < sum(waits) / 2 < 3900


NONE = "no cause was given"
MESSAGE = 'image `a`: "no"\n\\ \u00e9 \U0001f600'
LAMBDA = json.dumps({"errorType": "PullFailed", "errorMessage": MESSAGE, "trace": []})


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (None, NONE),
        ("", NONE),
        ("plain text", "plain text"),
        ('text with "errorMessage":"x"', 'text with "errorMessage":"x"'),
        (LAMBDA, MESSAGE),
        (json.dumps({"errorMessage": MESSAGE}, indent=1, ensure_ascii=False), MESSAGE),
        ('{"errorMessage":"","errorType":"A"}', NONE),
        ('{"errorMessage":null}', '{"errorMessage":null}'),
        ('{"errorType":"A"}', '{"errorType":"A"}'),
        ('{"a":"errorMessage","errorMessage":"b"}', "b"),
        ('{"a":"\\"errorMessage\\":\\"c\\"","errorMessage":"b"}', "b"),
        ("{}", "{}"),
        ("{", "{"),
        ("[]", "[]"),
        ('["a"]', '["a"]'),
        ('"a"', '"a"'),
        ('{"errorMessage":"cut in the mid', "cut in the mid"),
        ('{"errorMessage":"cut \\', "cut "),
        ('{"errorMessage":"cut \\u00', "cut "),
        ('{"errorMessage":"cut \\u00e9', "cut \u00e9"),
        ('{"errorMessage', '{"errorMessage'),
        ('{"errorMessage":"not \t JSON"}', "not "),
        ('{"errorMessage":"' + "long\\n" * 6000, ("long\n" * 6000)[:12000]),
    ],
)
def test_every_cause_yields_a_message(cloud: RunningCloud, cause: str | None, message: str) -> None:
    caught = {"Error": "PullFailed"} | ({} if cause is None else {"Cause": cause})
    given = dict.fromkeys(("plan_error", "caught"), "{% $states.input %}")
    failed = STATES["Targets"]["ItemProcessor"]["States"]["TargetFailed"]
    given |= {"target": {"architecture": "arm64"}, "stage": "pull-images"}
    states = {
        "Catch": {"Type": "Pass", "Assign": given, "Next": "TargetFailed"},
        "TargetFailed": failed | {"Next": "PlanFailed"},
        "PlanFailed": STATES["PlanFailed"],
    }
    target = states | {"TargetFailed": failed | {"Next": "Done"}, "Done": {"Type": "Succeed"}}
    target["Done"]["Output"] = "{% $outcome.cause %}"
    del target["PlanFailed"]
    ended = run(cloud, target, **caught)
    assert (ended["status"], json.loads(ended.get("output", "0"))) == ("SUCCEEDED", message)
    one_line = message.replace("\n", " ")
    ended = run(cloud, states, **caught)
    assert ended["error"] == "PullFailed"
    assert ended["cause"] == f"plan-build failed with PullFailed: {one_line}"


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ({"decision": "build", "targets": []}, "Targets"),
        ({"decision": "up-to-date", "snapshots": {}}, "UpToDate"),
        ({"decision": "superseded", "by": "web-2"}, "Superseded"),
        ({"decision": "wait"}, "UnknownDecision"),
        ({}, "UnknownDecision"),
    ],
)
def test_each_decision_of_plan_build_has_a_state(
    cloud: RunningCloud, plan: dict[str, Any], name: str
) -> None:
    choice = STATES["BuildNeeded?"]
    followers = [rule["Next"] for rule in choice["Choices"]] + [choice["Default"]]
    states = {"BuildNeeded?": choice} | {
        follower: {"Type": "Succeed", "Output": follower} for follower in followers
    }
    assert json.loads(run(cloud, states, **plan)["output"]) == name


def test_unknown_decision_fails_with_its_name(cloud: RunningCloud) -> None:
    ended = run(cloud, {"UnknownDecision": STATES["UnknownDecision"]}, decision="wait")
    assert (ended["status"], ended["error"]) == ("FAILED", "InvalidPlan")
    assert "plan-build failed with InvalidPlan: " in ended["cause"]
    assert "`wait`" in ended["cause"]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ({"verification": {"level": "full"}}, "verify-snapshot"),
        ({"verification": {"level": "records"}}, "verify-snapshot"),
        ({"verification": {"level": "off"}}, "publish-snapshot"),
        # A plan of an earlier version.
        ({}, "publish-snapshot"),
    ],
)
def test_level_decides_whether_a_snapshot_is_verified(
    cloud: RunningCloud, target: dict[str, Any], name: str
) -> None:
    choice = STATES["Targets"]["ItemProcessor"]["States"]["Verify?"]
    states = {
        "Given": {"Type": "Pass", "Assign": {"target": target}, "Next": "Verify?"},
        "Verify?": choice,
        "verify-snapshot": {"Type": "Succeed", "Output": "verify-snapshot"},
        "publish-snapshot": {"Type": "Succeed", "Output": "publish-snapshot"},
    }
    assert json.loads(run(cloud, states)["output"]) == name


@pytest.mark.parametrize(
    ("kind", "error", "name"),
    [
        ("snapshot", "VerifyFailed", "DropBase"),
        ("empty", "VerifyFailed", "TargetDone"),
        ("snapshot", "VerifierLost", "TargetDone"),
        ("snapshot", "NeverReady", "TargetDone"),
    ],
)
def test_only_a_defect_on_a_base_starts_again(
    cloud: RunningCloud, kind: str, error: str, name: str
) -> None:
    given = {
        "target": {"base": {"kind": kind}},
        "outcome": {"status": "failed", "stage": "verify-snapshot", "error": error},
    }
    states = {
        "Given": {"Type": "Pass", "Assign": given, "Next": "RetryFromScratch?"},
        "RetryFromScratch?": STATES["Targets"]["ItemProcessor"]["States"]["RetryFromScratch?"],
        "DropBase": {"Type": "Succeed", "Output": "DropBase"},
        "TargetDone": {"Type": "Succeed", "Output": "TargetDone"},
    }
    assert json.loads(run(cloud, states)["output"]) == name


PUSH = {"source": "push", "image": "a:1", "at": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"trigger": PUSH, "debounce_seconds": 60}, "plan-build (early)"),
        ({"trigger": PUSH, "debounce_seconds": 20}, "plan-build (early)"),
        ({"trigger": PUSH, "debounce_seconds": 19}, "Debounce"),
        ({"trigger": PUSH, "debounce_seconds": 121}, "Debounce"),
        ({"trigger": PUSH, "debounce_seconds": "60"}, "Debounce"),
        ({"trigger": PUSH}, "Debounce"),
        ({"trigger": {"source": "schedule"}, "debounce_seconds": 60}, "Debounce"),
        ({"trigger": "me", "debounce_seconds": 60}, "Debounce"),
        ({"cache": "web"}, "Debounce"),
        ({}, "Debounce"),
    ],
)
def test_only_a_push_with_a_suitable_debounce_launches_early(
    cloud: RunningCloud, given: dict[str, Any], name: str
) -> None:
    choice = STATES["EarlyLaunch?"]
    states = {"EarlyLaunch?": choice} | {
        rule["Next"]: {
            "Type": "Succeed",
            "Output": {"next": rule["Next"], "input": "{% $input %}", "early": "{% $early %}"},
        }
        for rule in choice["Choices"]
    }
    output = json.loads(run(cloud, states, **given)["output"])
    assert output == {"next": name, "input": given, "early": []}


def test_debounce_counts_from_the_start_of_the_execution(cloud: RunningCloud) -> None:
    waited = "{% $millis() - $toMillis($states.context.Execution.StartTime) %}"
    states = {
        "Input": {"Type": "Pass", "Assign": {"input": {"debounce_seconds": 3}}, "Next": "Early"},
        "Early": {"Type": "Wait", "Seconds": 2, "Next": "Debounce"},
        "Debounce": STATES["Debounce"] | {"Next": "Done"},
        "Done": {"Type": "Succeed", "Output": waited},
    }
    waited = json.loads(run(cloud, states)["output"])
    assert 2900 < waited < 4500


@pytest.mark.parametrize(
    ("early", "plan", "removed"),
    [
        ([], {"decision": "build", "targets": [{"architecture": "arm64"}]}, []),
        (["arm64"], {"decision": "build", "targets": [{"architecture": "arm64"}]}, []),
        (
            ["arm64", "x86_64"],
            {"decision": "build", "targets": [{"architecture": "arm64"}]},
            ["x86_64"],
        ),
        (["arm64", "x86_64"], {"decision": "up-to-date", "snapshots": {}}, ["arm64", "x86_64"]),
        (["arm64"], {"decision": "superseded", "by": "web-2"}, ["arm64"]),
    ],
)
def test_early_builders_without_a_target_are_removed(
    cloud: RunningCloud, early: list[str], plan: dict[str, Any], removed: list[str]
) -> None:
    note = {"Type": "Pass", "Output": "{% $states.input.architecture %}", "End": True}
    unneeded = STATES["UnneededBuilders"] | {
        "Assign": {"removed": "{% $states.result %}"},
        "Next": "Done",
    }
    unneeded["ItemProcessor"] = unneeded["ItemProcessor"] | {
        "StartAt": "Note",
        "States": {"Note": note},
    }
    states = {
        "Early": {
            "Type": "Pass",
            "Assign": {"early": [{"architecture": one} for one in early]},
            "Next": "UnneededBuilders",
        },
        "UnneededBuilders": unneeded,
        "Done": {
            "Type": "Succeed",
            "Output": {"removed": "{% $removed %}", "plan": "{% $states.input %}"},
        },
    }
    output = json.loads(run(cloud, states, **plan)["output"])
    assert output == {"removed": removed, "plan": plan}
