"""The retriers and expressions of build.asl.json, run by the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

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
