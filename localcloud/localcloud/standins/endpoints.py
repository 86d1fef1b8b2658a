"""Registries of an image, and their credentials."""

from __future__ import annotations

import base64
import json
import re
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from this_node import ROOT

ECR = re.compile(
    r"^(?P<account>[0-9]{12})\.(?:"
    r"dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu"
    r"|c2s\.ic\.gov|sc2s\.sgov\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
    r"|dkr-ecr(?:-fips)?\.(?P<dual_stack>[a-z0-9-]+)\.(?:on\.aws|on\.amazonwebservices\.com\.cn)"
    r")/(?P<path>.+)$"
)
"""Hosts of private ECR. crates/domain/src/cache/image.rs has the list with its sources."""

OLD_ECR = re.compile(
    r"^(?P<account>[0-9]{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)"
    r"\.(?:amazonaws\.com(?:\.cn)?|cloud\.adc-e\.uk)/(?P<path>.+)$"
)
"""Hosts of private ECR that releases before `FIRST_WITHOUT_RESOLVER` recognize."""

FIRST_WITHOUT_RESOLVER = [1, 54, 0]
"""First Bottlerocket release without amazon-ecr-containerd-resolver."""


def ecr_image(reference: str, config: dict[str, Any]) -> re.Match[str] | None:
    """Returns the parts of an image in private ECR, if the node's release recognizes its host."""
    pattern = OLD_ECR if has_ecr_resolver(config) else ECR
    return pattern.match(reference)


def has_ecr_resolver(config: dict[str, Any]) -> bool:
    version = [int(part) for part in config["os"]["version_id"].split(".")]
    return version < FIRST_WITHOUT_RESOLVER


class PullFailed(Exception):
    """Failure of a pull, with the puller's last line."""


@dataclass(frozen=True)
class Endpoint:
    """A registry to fetch an image from, with the credentials to send."""

    url: str
    authorization: str | None
    ours: bool = False
    """Whether its certificate is signed by the local cloud's authority."""


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def ecr_authorization(config: dict[str, Any]) -> str:
    """Asks ECR for a token, as the instance's role."""
    credentials = config["credentials"]
    if not credentials:
        raise PullFailed("no EC2 IMDS role found, operation error ec2imds: GetMetadata")
    scope = f"{time.strftime('%Y%m%d', time.gmtime())}/{config['region']}/ecr/aws4_request"
    request = urllib.request.Request(
        config["endpoint"],
        data=b"{}",
        headers={
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
            "Host": f"ecr.{config['region']}.amazonaws.com",
            "X-Amz-Security-Token": credentials["AWS_SESSION_TOKEN"],
            # The local cloud reads the caller from the key and checks no signature.
            "Authorization": f"AWS4-HMAC-SHA256 Credential={credentials['AWS_ACCESS_KEY_ID']}/"
            f"{scope}, SignedHeaders=host, Signature=0",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            data = json.load(answer)["authorizationData"]
    except urllib.error.HTTPError as error:
        raise PullFailed(f"ECR GetAuthorizationToken: {error.read().decode()[:500]}") from error
    except OSError as error:
        raise PullFailed(f"ECR GetAuthorizationToken: {error}") from error
    return f"Basic {data[0]['authorizationToken']}"


def split_host(reference: str) -> tuple[str, str]:
    host, _, path = reference.partition("/")
    return host, path


def endpoints(reference: str, registry_config: str, config: dict[str, Any]) -> list[Endpoint]:
    host, _ = split_host(reference)
    local = config["registries"].get(host)
    if ecr_image(reference, config):
        authorization = ecr_authorization(config)
        return [Endpoint(f"https://{local or host}", authorization, local is not None)]
    registry: dict[str, Any] = {}
    if registry_config:
        try:
            registry = tomllib.loads((ROOT / registry_config.lstrip("/")).read_text())
        except OSError as error:
            raise PullFailed(f"failed to read registry config: {error}") from error
    default = "registry-1.docker.io" if host == "docker.io" else host
    credential = registry.get("creds", {}).get(default, {})
    authorization = None
    if "auth" in credential:
        authorization = f"Basic {credential['auth']}"
    elif credential:
        authorization = basic(credential.get("username", ""), credential.get("password", ""))
    mirrors = registry.get("mirrors", {})
    urls = list(mirrors.get(host, mirrors.get("*", {})).get("endpoints", []))
    found = []
    for url in urls:
        url = url if "://" in url else f"https://{url}"
        ours = url.removeprefix("https://").rstrip("/") in config["registries"].values()
        found.append(Endpoint(url, authorization, ours))
    found.append(Endpoint(f"https://{local or default}", authorization, local is not None))
    return found
