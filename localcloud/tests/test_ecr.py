"""A push to the registry appears in ECR and sends an event."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .clouds import COUNTING, RunningCloud, unique, until
from .images import INDEX, MANIFEST, Pusher, random_layer


def repository(cloud: RunningCloud) -> str:
    name = unique("team/api")
    cloud.aws("ecr").create_repository(repositoryName=name)
    return name


def test_push_starts_function_through_rule(cloud: RunningCloud) -> None:
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

    digest = Pusher(cloud, "ecr").image(name, [random_layer("one")], tag="v1")

    detail = cloud.receive(url)["requestPayload"]["detail"]
    assert detail["image-digest"] == digest
    assert (detail["image-tag"], detail["result"]) == ("v1", "SUCCESS")
    events.remove_targets(Rule="pushed", Ids=["function"])
    events.delete_rule(Name="pushed")


def test_batch_get_image_finds_index_by_tag_and_digest(cloud: RunningCloud) -> None:
    name = repository(cloud)
    pusher = Pusher(cloud, "ecr")
    platforms = {platform: pusher.image(name, [], platform) for platform in ("amd64", "arm64")}
    index = pusher.index(name, platforms, "v1")

    def images(**wanted: str) -> Any:
        answer = cloud.aws("ecr").batch_get_image(repositoryName=name, imageIds=[wanted])
        return answer["images"]

    [by_tag] = until(lambda: images(imageTag="v1"))
    assert by_tag["imageId"] == {"imageTag": "v1", "imageDigest": index}
    assert by_tag["imageManifestMediaType"] == INDEX
    assert hashlib.sha256(by_tag["imageManifest"].encode()).hexdigest() == index.split(":")[1]
    for digest in platforms.values():
        [by_digest] = images(imageDigest=digest)
        assert by_digest["imageManifestMediaType"] == MANIFEST


def test_moving_a_tag_leaves_old_image_untagged(cloud: RunningCloud) -> None:
    name = repository(cloud)
    pusher = Pusher(cloud, "ecr")
    old, new = (pusher.image(name, [random_layer(text)], tag="v1") for text in ("old", "new"))
    ecr = cloud.aws("ecr")

    def digest_of(**wanted: str) -> Any:
        images = ecr.batch_get_image(repositoryName=name, imageIds=[wanted])["images"]
        return images and images[0]["imageId"]["imageDigest"]

    until(lambda: digest_of(imageTag="v1") == new)
    assert digest_of(imageDigest=old) == old


def test_missing_image_differs_from_missing_repository(cloud: RunningCloud) -> None:
    name = repository(cloud)
    ecr = cloud.aws("ecr")
    answer = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "none"}])
    assert answer["failures"][0]["failureCode"] == "ImageNotFound"
    with pytest.raises(ClientError, match="RepositoryNotFoundException"):
        ecr.batch_get_image(repositoryName="none", imageIds=[{"imageTag": "none"}])


def test_registry_accepts_token_and_refuses_wrong_password(cloud: RunningCloud) -> None:
    [token] = cloud.aws("ecr").get_authorization_token()["authorizationData"]
    about = cloud.ready["registries"]["ecr"]
    login = base64.b64decode(token["authorizationToken"]).decode()
    assert login == f"AWS:{about['password']}"
    assert Pusher(cloud, "ecr").send("GET", "/").status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        Pusher(cloud, "ecr", password="wrong").send("GET", "/")


def rule(cloud: RunningCloud) -> str:
    """Creates a rule for the private registry and returns its prefix."""
    prefix = unique("cache")
    cloud.aws("ecr").create_pull_through_cache_rule(
        ecrRepositoryPrefix=prefix,
        upstreamRegistryUrl=cloud.ready["registries"]["private"]["host"],
    )
    return prefix


def test_first_request_imports_image_through_cache(cloud: RunningCloud) -> None:
    name, upstream = f"{rule(cloud)}/tools/imported", Pusher(cloud, "private")
    platforms = {
        platform: upstream.image("tools/imported", [random_layer(platform)], platform)
        for platform in ("amd64", "arm64")
    }
    index = upstream.index("tools/imported", platforms, "v1")
    ecr = cloud.aws("ecr")
    with pytest.raises(ClientError, match="RepositoryNotFoundException"):
        ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "none"}])

    [image] = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "v1"}])["images"]

    assert image["imageId"] == {"imageTag": "v1", "imageDigest": index}
    for digest in platforms.values():
        [found] = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageDigest": digest}])[
            "images"
        ]
        for layer in json.loads(found["imageManifest"])["layers"]:
            path = f"/{name}/blobs/{layer['digest']}"
            assert Pusher(cloud, "ecr").send("GET", path).status == 200


def test_moved_upstream_tag_sends_event_after_next_pull(cloud: RunningCloud) -> None:
    upstream, repository = Pusher(cloud, "private"), unique("tools/moving")
    prefix = rule(cloud)
    name = f"{prefix}/{repository}"
    url, queue = cloud.queue(unique("imports"))
    events = cloud.aws("events")
    pattern = {"source": ["aws.ecr"], "detail": {"repository-name": [name]}}
    events.put_rule(Name="imports", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="imports", Targets=[{"Id": "queue", "Arn": queue}])

    def pull() -> str:
        wanted = [{"imageTag": "v1"}]
        answer = cloud.aws("ecr").batch_get_image(repositoryName=name, imageIds=wanted)
        return str(answer["images"][0]["imageId"]["imageDigest"])

    old = upstream.image(repository, [random_layer("old")], tag="v1")
    assert pull() == old
    event = cloud.receive(url)
    assert event["detail-type"] == "ECR Pull Through Cache Action"
    assert event["resources"] == [f"arn:aws:ecr:eu-west-1:123456789012:repository/{name}"]
    assert event["detail"] == {
        "rule-version": "1",
        "sync-status": "SUCCESS",
        "ecr-repository-prefix": prefix,
        "repository-name": name,
        "upstream-registry-url": cloud.ready["registries"]["private"]["host"],
        "image-tag": "v1",
        "image-digest": old,
    }
    new = upstream.image(repository, [random_layer("new")], tag="v1")
    assert pull() == old
    cloud.control("POST", "settings", {"upstream_check_seconds": 0})
    assert pull() == new
    assert cloud.receive(url)["detail"]["image-digest"] == new
    events.remove_targets(Rule="imports", Ids=["queue"])
    events.delete_rule(Name="imports")


def test_unreachable_upstream_is_a_failure_of_the_image(cloud: RunningCloud) -> None:
    ecr, prefix = cloud.aws("ecr"), unique("cache")
    ecr.create_pull_through_cache_rule(
        ecrRepositoryPrefix=prefix, upstreamRegistryUrl="registry.example.com"
    )
    answer = ecr.batch_get_image(repositoryName=f"{prefix}/app", imageIds=[{"imageTag": "v1"}])
    assert answer["failures"][0]["failureCode"] == "UpstreamUnavailable"
