"""ECR: moto's repositories with a real registry behind them.

A push of a manifest to the registry creates an image in ECR, with the digest of
its bytes. ECR sends an event as on AWS.

The upstream of a pull-through cache rule is the other registry. The first
`BatchGetImage` of a tag imports its image.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.ecr.exceptions import InvalidParameterException
from moto.ecr.models import ECRBackend, Image, Repository, ecr_backends
from moto.ecr.responses import ECRResponse

from .cloud import ACCOUNT, ECR_HOST, REGION, Answer, Cloud, Registry
from .patching import api, patch
from .registries import NOTIFICATIONS

log = logging.getLogger(__name__)

_MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TOKEN_LIFE = timedelta(hours=12)
_ROOT = "ROOT"
"""Prefix of a rule for repositories without prefix."""


def install(cloud: Cloud) -> None:
    cloud.settings.register(upstream_check_seconds=24 * 3600)
    _install_images(cloud)
    _install_token(cloud)
    _install_rules()

    def notified(_method: str, _rest: str, _query: Any, body: Any) -> Answer:
        for event in body.get("events", []):
            target = event["target"]
            if event["action"] == "push" and target.get("mediaType") in _MANIFEST_TYPES:
                _pushed(cloud, target)
        return 200, {}

    cloud.control(NOTIFICATIONS, notified)


def _pushed(cloud: Cloud, target: dict[str, Any]) -> None:
    backend = ecr_backends[ACCOUNT][REGION]
    name, digest, tag = target["repository"], target["digest"], target.get("tag")
    if rule_of(name) is not None:
        # The import creates the image itself.
        return
    if name not in backend.repositories:
        # AWS refuses such a push.
        log.warning("%s was pushed to %s, which ECR does not have", digest, name)
        return
    try:
        manifest, _ = _Side(cloud, cloud.registries.ecr, name).manifest(digest)
        backend.put_image(name, manifest.decode(), tag, target["mediaType"])
    except (urllib.error.HTTPError, ServiceException) as error:
        # The registry has accepted the push and repeats a refused notification.
        log.warning("%s@%s was pushed, but is no image in ECR: %s", name, digest, error)


class _Side:
    """A repository in one of the two registries."""

    def __init__(self, cloud: Cloud, registry: Registry, repository: str) -> None:
        login = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}
        self._url = f"https://{registry.address}/v2/{repository}"
        context = ssl.create_default_context(cafile=str(cloud.registries.ca_certificate))
        # Without a proxy from the environment: the registry is on this machine.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[Any, bytes]:
        url = urllib.parse.urljoin(f"{self._url}/", path)
        request = urllib.request.Request(
            url, data=body, method=method, headers=self._headers | headers
        )
        with self._opener.open(request, timeout=10) as answer:
            return answer.headers, answer.read()

    def manifest(self, version: str) -> tuple[bytes, str]:
        """Returns a manifest and its media type."""
        types = ", ".join(_MANIFEST_TYPES)
        headers, body = self.send("GET", f"manifests/{version}", Accept=types)
        return body, headers["Content-Type"]

    def put_blob(self, digest: str, content: bytes) -> None:
        headers, _ = self.send("POST", "blobs/uploads/", b"")
        location = headers["Location"]
        separator = "&" if "?" in location else "?"
        upload = f"{location}{separator}digest={urllib.parse.quote(digest)}"
        self.send("PUT", upload, content, **{"Content-Type": "application/octet-stream"})


@dataclass(frozen=True)
class PullThroughRule:
    prefix: str
    upstream: str
    """Host of the upstream registry."""


_rules: dict[str, PullThroughRule] = {}
_import_lock = threading.Lock()


def rule_of(repository: str) -> PullThroughRule | None:
    """Returns the pull-through cache rule with the longest prefix of the repository."""
    prefixes = [prefix for prefix in _rules if repository.startswith(f"{prefix}/")]
    return _rules.get(max(prefixes, key=len, default=_ROOT))


def _install_rules() -> None:
    def create_pull_through_cache_rule(self: ECRResponse) -> ActionResult:
        prefix = self._get_param("ecrRepositoryPrefix")
        upstream = self._get_param("upstreamRegistryUrl")
        if prefix in _rules:
            raise ServiceException(
                "PullThroughCacheRuleAlreadyExistsException",
                f"A pull through cache rule with the prefix '{prefix}' already exists",
            )
        _rules[prefix] = PullThroughRule(prefix, upstream)
        return ActionResult(
            {
                "ecrRepositoryPrefix": prefix,
                "upstreamRegistryUrl": upstream,
                "createdAt": datetime.now(UTC),
                "registryId": ACCOUNT,
            }
        )

    patch(
        ECRResponse,
        "create_pull_through_cache_rule",
        create_pull_through_cache_rule,
        reason="Adds an action whose rules let `BatchGetImage` import images.",
        link=api("ecr", "CreatePullThroughCacheRule"),
        adds=True,
    )


class _Importer:
    """Imports images from the upstream registries of pull-through cache rules.

    The credentials of the upstream are always right.

    Source: Amazon ECR user guide, "Sync an upstream registry with an Amazon ECR
    private registry". ECR looks for a new image of a tag at a pull, at most once
    in 24 hours; `upstream_check_seconds` changes that.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._checked: dict[tuple[str, str], float] = {}

    def bring(
        self, backend: ECRBackend, name: str, rule: PullThroughRule, wanted: dict[str, str]
    ) -> None:
        """Imports a missing or stale image. Raises OSError if the upstream does not answer."""
        version = wanted.get("imageDigest") or wanted["imageTag"]
        with _import_lock:
            repository = backend.repositories.get(name)
            present = _find(repository, wanted) if repository is not None else None
            age = time.monotonic() - self._checked.get((name, version), float("-inf"))
            fresh = age < self._cloud.settings["upstream_check_seconds"]
            if present is not None and (wanted.get("imageDigest") or fresh):
                return
            upstream = name if rule.prefix == _ROOT else name.removeprefix(f"{rule.prefix}/")
            registries = self._cloud.registries
            if rule.upstream != registries.private.host:
                raise OSError(f"there is no upstream registry {rule.upstream}")
            source = _Side(self._cloud, registries.private, upstream)
            try:
                manifest, media_type = source.manifest(version)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return
                raise
            self._checked[name, version] = time.monotonic()
            digest = _digest(manifest)
            if present is not None and present.image_digest == digest:
                return
            if repository is None:
                backend.create_repository(name, None, {}, {}, "MUTABLE", [])
            target = _Side(self._cloud, registries.ecr, name)
            self._copy(backend, name, source, target, manifest, media_type, wanted.get("imageTag"))
        self._announce(backend, name, rule, digest, wanted.get("imageTag"))

    def _copy(
        self,
        backend: ECRBackend,
        name: str,
        source: _Side,
        target: _Side,
        manifest: bytes,
        media_type: str,
        tag: str | None,
    ) -> None:
        content = json.loads(manifest)
        for child in content.get("manifests", []):
            body, child_type = source.manifest(child["digest"])
            self._copy(backend, name, source, target, body, child_type, None)
        blobs = [content["config"], *content["layers"]] if "layers" in content else []
        for digest in {blob["digest"] for blob in blobs}:
            _, body = source.send("GET", f"blobs/{digest}")
            target.put_blob(digest, body)
        digest = _digest(manifest)
        headers = {"Content-Type": media_type}
        target.send("PUT", f"manifests/{tag or digest}", manifest, **headers)
        _store(backend, name, manifest.decode(), tag, media_type, digest)

    def _announce(
        self,
        backend: ECRBackend,
        name: str,
        rule: PullThroughRule,
        digest: str,
        tag: str | None,
    ) -> None:
        """https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html"""
        detail = {
            "rule-version": "1",
            "sync-status": "SUCCESS",
            "ecr-repository-prefix": rule.prefix,
            "repository-name": name,
            "upstream-registry-url": rule.upstream,
            "image-digest": digest,
        }
        if tag:
            detail["image-tag"] = tag
        arn = backend.repositories[name].arn
        self._cloud.put_event("aws.ecr", "ECR Pull Through Cache Action", detail, [arn])


def _digest(manifest: bytes) -> str:
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


def _store(
    backend: ECRBackend, name: str, manifest: str, tag: str | None, media_type: str, digest: str
) -> Image:
    repository = backend._get_repository(name)
    _free_tag(repository, tag, digest)
    image = next((i for i in repository.images if i.image_digest == digest), None)
    if image is None:
        image = Image(backend.account_id, tag, manifest, name, media_type, digest)
        repository.images.append(image)
    elif tag is not None:
        image.update_tag(tag)
    return image


def _install_images(cloud: Cloud) -> None:
    importer = _Importer(cloud)

    def put_image(
        self: ECRBackend,
        repository_name: str,
        image_manifest: str,
        image_tag: str | None,
        image_manifest_mediatype: str | None = None,
        digest: str | None = None,
    ) -> Image:
        actual = _digest(image_manifest.encode())
        if digest not in (None, actual):
            raise InvalidParameterException(f"The digest of the manifest is {actual}, not {digest}")
        media_type = image_manifest_mediatype or json.loads(image_manifest).get("mediaType")
        if not media_type:
            raise InvalidParameterException(
                "image manifest mediatype not provided in manifest or parameter"
            )
        image = _store(self, repository_name, image_manifest, image_tag, media_type, actual)
        _announce(cloud, repository_name, actual, image_tag, media_type)
        return image

    def batch_get_image(
        self: ECRBackend,
        repository_name: str,
        registry_id: str | None = None,
        image_ids: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        images, failures = [], []
        rule = rule_of(repository_name)
        for wanted in image_ids or []:
            try:
                if rule is not None:
                    importer.bring(self, repository_name, rule, wanted)
            except OSError as error:
                failures.append(
                    {
                        "imageId": wanted,
                        "failureCode": "UpstreamUnavailable",
                        "failureReason": f"The upstream registry is unavailable: {error}",
                    }
                )
                continue
            image = _find(self._get_repository(repository_name, registry_id), wanted)
            if image is None:
                failures.append(
                    {
                        "imageId": wanted,
                        "failureCode": "ImageNotFound",
                        "failureReason": "Requested image not found",
                    }
                )
                continue
            images.append(
                {
                    "registryId": image.registry_id,
                    "repositoryName": repository_name,
                    "imageId": {**wanted, "imageDigest": image.image_digest},
                    "imageManifest": image.image_manifest,
                    "imageManifestMediaType": image.image_manifest_media_type,
                }
            )
        return {"images": images, "failures": failures}

    patch(
        ECRBackend,
        "put_image",
        put_image,
        reason="Stores manifests by the digest of their bytes and sends an event.",
        link=api("ecr", "PutImage"),
    )
    patch(
        ECRBackend,
        "batch_get_image",
        batch_get_image,
        reason="Finds indexes and platform manifests, and imports them through caches.",
        link=api("ecr", "BatchGetImage"),
    )


def _find(repository: Repository, wanted: dict[str, str]) -> Image | None:
    digest, tag = wanted.get("imageDigest"), wanted.get("imageTag")
    for image in repository.images:
        if digest in (None, image.image_digest) and (tag is None or tag in image.image_tags):
            return image
    return None


def _free_tag(repository: Repository, tag: str | None, digest: str) -> None:
    """Removes the tag from its current image, which stays untagged."""
    if tag is None:
        return
    bearer = _find(repository, {"imageTag": tag})
    if bearer is None or bearer.image_digest == digest:
        return
    if repository.image_tag_mutability == "IMMUTABLE":
        raise ServiceException(
            "ImageTagAlreadyExistsException",
            f"The image tag '{tag}' already exists in the '{repository.name}' repository and "
            "cannot be overwritten because the tag is immutable.",
        )
    bearer.remove_tag(tag)
    if not bearer.image_tags:
        bearer.image_tag = None


def _announce(cloud: Cloud, repository: str, digest: str, tag: str | None, media_type: str) -> None:
    """https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html"""
    detail = {
        "result": "SUCCESS",
        "repository-name": repository,
        "image-digest": digest,
        "action-type": "PUSH",
        "manifest-media-type": media_type,
        "artifact-media-type": "application/vnd.docker.container.image.v1+json",
    }
    if tag:
        detail["image-tag"] = tag
    cloud.put_event("aws.ecr", "ECR Image Action", detail)


def _install_token(cloud: Cloud) -> None:
    def get_authorization_token(self: ECRResponse) -> ActionResult:
        del self
        ecr = cloud.registries.ecr
        login = f"{ecr.username}:{ecr.password}"
        token = {
            "authorizationToken": base64.b64encode(login.encode()).decode(),
            "expiresAt": datetime.now(UTC) + _TOKEN_LIFE,
            "proxyEndpoint": f"https://{ECR_HOST}",
        }
        return ActionResult({"authorizationData": [token]})

    patch(
        ECRResponse,
        "get_authorization_token",
        get_authorization_token,
        reason="Returns a token for the real registry.",
        link=api("ecr", "GetAuthorizationToken"),
    )
