"""The log of a container, as CRI writes it."""

from __future__ import annotations

import pytest

from localcloud.nodes.kubelet import output_of

TIME = "2026-11-01T12:00:00.000000000Z"


@pytest.mark.parametrize(
    ("log", "output"),
    [
        ("", ""),
        (f"{TIME} stdout F hello\n", "hello\n"),
        (f"{TIME} stdout P long \n{TIME} stdout F line\n", "long line\n"),
        (f"{TIME} stderr F \n{TIME} stdout F two  spaces\n", "\ntwo  spaces\n"),
    ],
)
def test_log_lines_become_output(log: str, output: str) -> None:
    assert output_of(log) == output
