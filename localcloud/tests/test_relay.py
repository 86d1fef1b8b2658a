"""The relay in front of the private registry passes data unchanged."""

from __future__ import annotations

import pytest

from .clouds import RunningCloud, unique
from .images import Pusher, digest, random_layer


def test_chunked_upload_arrives_complete(cloud: RunningCloud) -> None:
    pusher, repository = Pusher(cloud), f"team/{unique('chunks')}"
    content = random_layer("chunks", 600_000)
    pieces = (content[at : at + 100_000] for at in range(0, len(content), 100_000))
    place = pusher.send("POST", f"/{repository}/blobs/uploads/").headers["Location"]
    pusher.send("PUT", f"{place}&digest={digest(content)}", pieces)
    got = pusher.send("GET", f"/{repository}/blobs/{digest(content)}")
    assert got.read() == content
    head = pusher.send("HEAD", f"/{repository}/blobs/{digest(content)}")
    assert (int(head.headers["Content-Length"]), head.read()) == (len(content), b"")


def test_failed_registry_drops_every_connection(cloud: RunningCloud) -> None:
    cloud.control("POST", "registries/private", {"fail_after_bytes": 0})
    with pytest.raises(OSError, match=r"closed|reset|EOF"):
        Pusher(cloud).send("GET", "/")
    cloud.control("POST", "reset")
    assert Pusher(cloud).send("GET", "/").status == 200


@pytest.mark.parametrize("wish", [{}, {"fail_after": 1}, {"fail_after_bytes": 1, "other": 2}])
def test_misspelt_limit_is_refused(cloud: RunningCloud, wish: dict[str, int]) -> None:
    assert cloud.control("POST", "registries/private", wish)["status"] == 400
