"""Patches of moto: the list of them, and missing targets."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from localcloud import patching
from localcloud.patching import MissingTargetError, patch


class Target:
    table = {"known": 1}  # noqa: RUF012

    def known(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def no_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "_applied", [])
    monkeypatch.setattr(patching, "_source", lambda _: "https://example.org")


def test_patches_file_is_current(tmp_path: Path) -> None:
    written = tmp_path / "PATCHES.md"
    command = [sys.executable, "-m", "localcloud", "patches", "--output", str(written)]
    subprocess.run(command, check=True, cwd=patching.PATCHES_FILE.parent)
    assert written.read_text() == patching.PATCHES_FILE.read_text(), (
        "run python -m localcloud patches"
    )


@pytest.mark.parametrize("name", ["unknown", "table[unknown]", "unknown[known]"])
def test_patch_without_target_fails(name: str) -> None:
    with pytest.raises(MissingTargetError, match=r"patching .*Target.*: moto .* lacks it"):
        patch(Target, name, 2, reason="test")
    assert patching.applied() == []


@pytest.mark.parametrize("name", ["known", "table[known]"])
def test_addition_with_existing_target_fails(name: str) -> None:
    with pytest.raises(MissingTargetError, match="has it"):
        patch(Target, name, 2, reason="test", adds=True)


def test_patch_replaces_function_in_importing_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, importer = types.ModuleType("moto.owner"), types.ModuleType("moto.importer")

    def function() -> int:
        return 1

    function.__module__ = owner.__name__
    owner.function = importer.function = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, owner.__name__, owner)
    monkeypatch.setitem(sys.modules, importer.__name__, importer)
    patch(owner, "function", lambda: 2, reason="test")
    assert importer.function() == 2  # type: ignore[attr-defined]
    assert [p.target for p in patching.applied()] == ["moto.owner.function"]
