"""Start on a machine that lacks a requirement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localcloud.cloud import Unusable
from localcloud.nodes import choose


def test_missing_registry_program_fails_start_with_package(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "localcloud", "--port", "1", "--state", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Debian package docker-registry" in ended.stderr.splitlines()[-1]


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("PREPULL_NODES", raising=False)


@pytest.mark.usefixtures("ordinary_user")
def test_nodes_without_root_are_simulated_with_reason() -> None:
    kind, why = choose()
    assert (kind.name, why) == ("simulated", "localcloud does not run as root")


@pytest.mark.usefixtures("ordinary_user")
def test_impossible_real_nodes_fail_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREPULL_NODES", "real")
    with pytest.raises(Unusable, match="does not run as root"):
        choose()
