"""What is pushed to the registry is in ECR, and ECR says so."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import COUNTING, RunningCloud, unique, until

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Pusher:
    """As much of the distribution protocol as a push needs."""

    def __init__(self, cloud: RunningCloud, registry: str) -> None:
        about = cloud.ready["registries"][registry]
        login = f"{about['username']}:{about['password']}".encode()
        self._base = f"https://{about['address']}/v2"
        self._login = "Basic " + base64.b64encode(login).decode()
        context = ssl.create_default_context(cafile=cloud.ready["ca_certificate"])
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def send(self, method: str, url: str, data: bytes = b"", kind: str | None = None) -> Any:
        headers = {"Authorization": self._login, "Content-Type": kind or "application/octet-stream"}
        url = url if url.startswith("https:") else self._base + url
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        return self._opener.open(request)

    def blob(self, repository: str, data: bytes) -> dict[str, Any]:
        location = self.send("POST", f"/{repository}/blobs/uploads/").headers["Location"]
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.send("PUT", f"{location}&digest={digest}", data)
        return {"digest": digest, "size": len(data), "mediaType": "application/octet-stream"}

    def manifest(self, repository: str, content: Any, kind: str, tag: str | None = None) -> str:
        data = json.dumps(content).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.send("PUT", f"/{repository}/manifests/{tag or digest}", data, kind)
        return digest

    def image(self, repository: str, text: str, tag: str | None = None) -> str:
        config = self.blob(repository, b"{}") | {
            "mediaType": "application/vnd.oci.image.config.v1+json"
        }
        layer = self.blob(repository, text.encode())
        content = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
        return self.manifest(repository, content, MANIFEST, tag)


def repository(cloud: RunningCloud) -> str:
    name = unique("team/api")
    cloud.aws("ecr").create_repository(repositoryName=name)
    return name


def test_a_push_starts_a_function_through_a_rule(cloud: RunningCloud) -> None:
    name = repository(cloud)
    url, queue = cloud.queue(unique("pushes"))
    function = cloud.deploy(unique("pushed"), COUNTING)
    cloud.aws("lambda").put_function_event_invoke_config(
        FunctionName=function, DestinationConfig={"OnFailure": {"Destination": queue}}
    )
    cloud.control("POST", "settings", {"async_retry_seconds": 0})
    pattern = {
        "source": ["aws.ecr"],
        "detail-type": ["ECR Image Action"],
        "detail": {"action-type": ["PUSH"], "repository-name": [name]},
    }
    events = cloud.aws("events")
    events.put_rule(Name="pushed", EventPattern=json.dumps(pattern))
    transformer = {
        "InputPathsMap": {"detail": "$.detail"},
        # The function fails, so that its input arrives in the queue.
        "InputTemplate": '{"detail": <detail>, "failures": 9, "error": "Seen"}',
    }
    target = {"Id": "function", "Arn": function, "InputTransformer": transformer}
    events.put_targets(Rule="pushed", Targets=[target])

    digest = Pusher(cloud, "ecr").image(name, "one", "v1")

    detail = cloud.receive(url)["requestPayload"]["detail"]
    assert detail["image-digest"] == digest
    assert (detail["image-tag"], detail["result"]) == ("v1", "SUCCESS")
    events.remove_targets(Rule="pushed", Ids=["function"])
    events.delete_rule(Name="pushed")


def test_an_index_and_its_platforms_are_found_by_tag_and_digest(cloud: RunningCloud) -> None:
    name = repository(cloud)
    pusher = Pusher(cloud, "ecr")
    platforms = [pusher.image(name, text) for text in ("x86_64", "arm64")]
    content = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    for platform, architecture in zip(platforms, ("amd64", "arm64"), strict=True):
        content["manifests"].append(
            {
                "digest": platform,
                "mediaType": MANIFEST,
                "size": 1,
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    index = pusher.manifest(name, content, INDEX, "v1")

    def images(**wanted: str) -> Any:
        answer = cloud.aws("ecr").batch_get_image(repositoryName=name, imageIds=[wanted])
        return answer["images"]

    [by_tag] = until(lambda: images(imageTag="v1"))
    assert by_tag["imageId"] == {"imageTag": "v1", "imageDigest": index}
    assert by_tag["imageManifestMediaType"] == INDEX
    assert hashlib.sha256(by_tag["imageManifest"].encode()).hexdigest() == index.split(":")[1]
    for digest in platforms:
        [by_digest] = images(imageDigest=digest)
        assert by_digest["imageManifestMediaType"] == MANIFEST


def test_a_tag_that_moves_leaves_the_old_image_untagged(cloud: RunningCloud) -> None:
    name = repository(cloud)
    pusher = Pusher(cloud, "ecr")
    old, new = pusher.image(name, "old", "v1"), pusher.image(name, "new", "v1")
    ecr = cloud.aws("ecr")

    def digest_of(**wanted: str) -> Any:
        images = ecr.batch_get_image(repositoryName=name, imageIds=[wanted])["images"]
        return images and images[0]["imageId"]["imageDigest"]

    until(lambda: digest_of(imageTag="v1") == new)
    assert digest_of(imageDigest=old) == old


def test_a_missing_image_and_a_missing_repository_are_told_apart(cloud: RunningCloud) -> None:
    name = repository(cloud)
    ecr = cloud.aws("ecr")
    answer = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "none"}])
    assert answer["failures"][0]["failureCode"] == "ImageNotFound"
    with pytest.raises(ClientError, match="RepositoryNotFoundException"):
        ecr.batch_get_image(repositoryName="none", imageIds=[{"imageTag": "none"}])


def test_the_token_opens_the_registry_and_a_wrong_password_does_not(cloud: RunningCloud) -> None:
    [token] = cloud.aws("ecr").get_authorization_token()["authorizationData"]
    about = cloud.ready["registries"]["ecr"]
    login = base64.b64decode(token["authorizationToken"]).decode()
    assert login == f"AWS:{about['password']}"
    pusher = Pusher(cloud, "ecr")
    assert pusher.send("GET", "/").status == 200
    pusher._login = "Basic " + base64.b64encode(b"AWS:wrong").decode()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        pusher.send("GET", "/")
