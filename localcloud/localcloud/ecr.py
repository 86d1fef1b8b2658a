"""ECR: moto's repositories with a real registry behind them.

A push of a manifest to the registry creates an image in ECR, with the digest of
its bytes. ECR sends an event as on AWS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.ecr.exceptions import InvalidParameterException
from moto.ecr.models import ECRBackend, Image, Repository, ecr_backends
from moto.ecr.responses import ECRResponse

from .cloud import ACCOUNT, ECR_HOST, REGION, Answer, Cloud, Registries
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


def install(cloud: Cloud) -> None:
    _install_images(cloud)
    _install_token(cloud)

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
    if name not in backend.repositories:
        # AWS refuses such a push.
        log.warning("%s was pushed to %s, which ECR does not have", digest, name)
        return
    try:
        manifest = _fetch_manifest(cloud.registries, name, digest)
        backend.put_image(name, manifest, tag, target["mediaType"])
    except (urllib.error.HTTPError, ServiceException) as error:
        # The registry has accepted the push and repeats a refused notification.
        log.warning("%s@%s was pushed, but is no image in ECR: %s", name, digest, error)


def _fetch_manifest(registries: Registries, name: str, digest: str) -> str:
    ecr = registries.ecr
    login = base64.b64encode(f"{ecr.username}:{ecr.password}".encode()).decode()
    request = urllib.request.Request(
        f"https://{ecr.address}/v2/{name}/manifests/{digest}",
        headers={"Accept": ", ".join(_MANIFEST_TYPES), "Authorization": f"Basic {login}"},
    )
    context = ssl.create_default_context(cafile=str(registries.ca_certificate))
    # Without a proxy from the environment: the registry is on this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(request, timeout=10) as answer:
        return answer.read().decode()


def _install_images(cloud: Cloud) -> None:
    def put_image(
        self: ECRBackend,
        repository_name: str,
        image_manifest: str,
        image_tag: str | None,
        image_manifest_mediatype: str | None = None,
        digest: str | None = None,
    ) -> Image:
        repository = self._get_repository(repository_name)
        actual = "sha256:" + hashlib.sha256(image_manifest.encode()).hexdigest()
        if digest not in (None, actual):
            raise InvalidParameterException(f"The digest of the manifest is {actual}, not {digest}")
        media_type = image_manifest_mediatype or json.loads(image_manifest).get("mediaType")
        if not media_type:
            raise InvalidParameterException(
                "image manifest mediatype not provided in manifest or parameter"
            )
        _free_tag(repository, image_tag, actual)
        image = next((i for i in repository.images if i.image_digest == actual), None)
        if image is None:
            image = Image(
                self.account_id, image_tag, image_manifest, repository_name, media_type, actual
            )
            repository.images.append(image)
        else:
            image.update_tag(image_tag)
        _announce(cloud, repository_name, actual, image_tag, media_type)
        return image

    def batch_get_image(
        self: ECRBackend,
        repository_name: str,
        registry_id: str | None = None,
        image_ids: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        repository = self._get_repository(repository_name, registry_id)
        images, failures = [], []
        for wanted in image_ids or []:
            image = _find(repository, wanted)
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
        reason="Finds indexes and platform manifests by tag and by digest.",
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
