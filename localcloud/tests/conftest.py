"""The cloud that most tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .clouds import RunningCloud, start_cloud, stop_cloud, trust
from .machines import QUICK, Machines


@pytest.fixture(scope="session")
def running_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud with simulated nodes; real nodes have tests of their own."""
    cloud = start_cloud(tmp_path_factory.mktemp("state"), PREPULL_NODES="simulated")
    cloud.aws("iam").create_role(RoleName="test", AssumeRolePolicyDocument=trust("lambda"))
    yield cloud
    assert cloud.control("GET", "reference")["permission_problems"] == []
    assert stop_cloud(cloud) == 0


@pytest.fixture
def cloud(running_cloud: RunningCloud) -> Iterator[RunningCloud]:
    # The roles of most tests have no policies.
    running_cloud.control("POST", "settings", {"enforce_iam": False})
    yield running_cloud
    running_cloud.control("POST", "reset")
    assert running_cloud.control("DELETE", "violations") == []


@pytest.fixture
def machines(cloud: RunningCloud) -> Machines:
    cloud.control("POST", "settings", QUICK)
    return Machines(cloud)
