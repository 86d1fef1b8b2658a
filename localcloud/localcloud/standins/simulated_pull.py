"""Downloads missing parts of an image over the registry protocol."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.request
from typing import Any

from content import INDEX_TYPES, digest_of, entries_for
from endpoints import Endpoint, PullFailed
from simulated_ctr import SimulatedStore, store
from this_node import ROOT

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class Source:
    """One repository at one registry."""

    def __init__(self, place: Endpoint, repository: str) -> None:
        self._base = f"{place.url}/v2/{repository}"
        self._headers = {"Authorization": place.authorization} if place.authorization else {}
        ca = str(ROOT / "run/localcloud/ca.pem") if place.ours else None
        handlers: list[Any] = [
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca))
        ]
        if place.ours:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, kind: str, name: str) -> tuple[bytes, str]:
        """Returns a body and its media type."""
        headers = self._headers | {"Accept": ", ".join((*INDEX_TYPES, *MANIFEST_TYPES, "*/*"))}
        request = urllib.request.Request(f"{self._base}/{kind}/{name}", headers=headers)
        with self._opener.open(request, timeout=60) as answer:
            return answer.read(), answer.headers.get("Content-Type", "")


def pull(reference: str, places: list[Endpoint], labels: list[str]) -> None:
    """Tries each endpoint. Raises PullFailed with the last one's answer."""
    for number, place in enumerate(places, start=1):
        try:
            _pull_from(reference, place, labels)
            return
        except (OSError, ValueError, http.client.HTTPException) as error:
            if number == len(places):
                raise PullFailed(_reason(reference, error)) from error


def _reason(reference: str, error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)  # What was downloaded is wrong, or does not fit.
    if isinstance(error, http.client.IncompleteRead):
        return "failed to copy: httpReadSeeker: failed open: unexpected EOF"
    code = getattr(error, "code", None)
    words = {401: "401 Unauthorized", 404: "not found"}.get(code, str(error))
    return f'failed to resolve reference "{reference}": {words}'


def _pull_from(reference: str, place: Endpoint, labels: list[str]) -> None:
    _, _, path = reference.partition("/")
    repository, name = split_name(path)
    source = Source(place, repository)
    manifest, media_type = source.get("manifests", name)
    with store() as content:
        digest = digest_of(manifest)
        content.add_blob(digest, manifest)
        _fetch(content, source, json.loads(manifest))
        content.unpack(digest)
        content.records["images"][reference] = {
            "media_type": media_type,
            "digest": digest,
            "labels": dict(label.partition("=")[::2] for label in labels),
        }
        content.save()


def _fetch(content: SimulatedStore, source: Source, manifest: dict[str, Any]) -> None:
    for entry in entries_for(manifest, content.platform):
        blob = content.blob(entry["digest"]) or source.get("manifests", entry["digest"])[0]
        content.add_blob(entry["digest"], blob)
        _fetch(content, source, json.loads(blob))
    parts = [manifest["config"], *manifest["layers"]] if "config" in manifest else []
    for part in parts:
        if not content.has(part["digest"]):
            content.add_blob(part["digest"], source.get("blobs", part["digest"])[0])


def split_name(path: str) -> tuple[str, str]:
    """Returns the repository, and the digest or else the tag."""
    if "@" in path:
        before, _, digest = path.partition("@")
        repository = before.rpartition("/")
        last = repository[2].partition(":")[0]
        return f"{repository[0]}/{last}".lstrip("/"), digest
    repository, _, tag = path.rpartition(":")
    return repository, tag
