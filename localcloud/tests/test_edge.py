"""Faults, settings and the log of calls."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from .clouds import RunningCloud, start_cloud, stop_cloud, until


@pytest.mark.parametrize(
    ("service", "action", "method", "code", "status"),
    [
        ("ec2", "DescribeInstances", "describe_instances", "InsufficientInstanceCapacity", 500),
        ("ssm", "DescribeParameters", "describe_parameters", "ThrottlingException", 400),
        ("lambda", "ListFunctions", "list_functions", "TooManyRequestsException", 429),
        ("states", "ListStateMachines", "list_state_machines", "AccessDeniedException", 400),
    ],
)
def test_fault_applies_requested_times_and_is_logged(
    cloud: RunningCloud, service: str, action: str, method: str, code: str, status: int
) -> None:
    client = cloud.aws("stepfunctions" if service == "states" else service)
    fault = {"service": service, "action": action, "code": code, "message": "no", "status": status}
    cloud.control("POST", "faults", fault | {"times": 2})
    cloud.control("DELETE", "calls")
    for _ in range(2):
        with pytest.raises(ClientError, match=f"{code}.*no") as raised:
            getattr(client, method)()
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert [fault["hits"] for fault in cloud.control("GET", "faults")] == [2]
    getattr(client, method)()
    logged = [(c["service"], c["action"], c["status"]) for c in cloud.control("GET", "calls")]
    assert logged == [(service, action, status)] * 2 + [(service, action, 200)]


def test_misspelt_setting_is_refused(cloud: RunningCloud) -> None:
    assert cloud.control("POST", "settings", {"schedule_sped": 2})["status"] == 400


def test_cache_overrides_settings(cloud: RunningCloud) -> None:
    def seconds(query: str = "") -> float:
        return cloud.control("GET", f"settings{query}")["agent_seconds"]

    cloud.control("POST", "settings", {"agent_seconds": 2})
    cloud.control("POST", "settings?cache=web", {"agent_seconds": 3})
    assert (seconds(), seconds("?cache=web"), seconds("?cache=other")) == (2, 3, 2)
    cloud.control("DELETE", "settings?cache=web")
    assert seconds("?cache=web") == 2
    cloud.control("POST", "settings?cache=web", {"agent_seconds": 3})
    cloud.control("POST", "reset")
    assert (seconds(), seconds("?cache=web")) == (1, 1)


def test_common_setting_is_refused_for_one_cache(cloud: RunningCloud) -> None:
    refused = cloud.control("POST", "settings?cache=web", {"schedule_speed": 2})
    assert (refused["status"], "schedule_speed" in refused["error"]) == (400, True)


def test_unknown_route_lists_known_routes(cloud: RunningCloud) -> None:
    assert "settings" in cloud.control("GET", "nothing")["error"]


def test_two_clouds_run_side_by_side_and_end_cleanly(tmp_path: Path) -> None:
    first = start_cloud(tmp_path / "first", PREPULL_NODES="simulated")
    second = start_cloud(tmp_path / "second", PREPULL_NODES="simulated")
    assert first.control("GET", "ready") == first.ready
    assert [stop_cloud(first), stop_cloud(second)] == [0, 0]


def test_killed_cloud_leaves_no_process(tmp_path: Path) -> None:
    killed = start_cloud(tmp_path, PREPULL_NODES="simulated")
    killed.process.kill()
    killed.process.wait()

    def processes() -> list[str]:
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
        return [line for line in listed.stdout.splitlines() if str(tmp_path) in line]

    until(lambda: not processes())
    again = start_cloud(tmp_path, PREPULL_NODES="simulated")
    assert stop_cloud(again) == 0
