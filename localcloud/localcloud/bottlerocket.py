"""The Bottlerocket releases that this cloud offers: AMIs and their public parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

PREFIX = "/aws/service/bottlerocket"
OWNER = "092701018921"
"""The account that publishes Bottlerocket's AMIs in most regions."""

VERSIONS = ("1.57.0", "1.56.0", "1.53.0", "1.43.0")
"""Releases, newest first. 1.53.0 has the ECR resolver's names. On 1.43.0 the scrub fails."""
MINORS = range(29, 38)
FLAVOURS = ("", "-nvidia", "-fips")
ARCHITECTURES = ("x86_64", "arm64")
BUILD = "b6eb3d5e"

ROOT_DEVICE, DATA_DEVICE = "/dev/xvda", "/dev/xvdb"
ROOT_GIB, DATA_GIB = 4, 20


@dataclass(frozen=True)
class Release:
    variant: str
    architecture: str
    version: str

    def image_id(self, region: str) -> str:
        words = f"{region}/{self.variant}/{self.architecture}/{self.version}"
        return "ami-" + hashlib.sha256(words.encode()).hexdigest()[:17]

    @property
    def image_name(self) -> str:
        return f"bottlerocket-{self.variant}-{self.architecture}-v{self.version}-{BUILD}"

    @property
    def description(self) -> dict[str, str]:
        """Returns the answer of `apiclient get os` on a node of this release."""
        return {
            "arch": "aarch64" if self.architecture == "arm64" else self.architecture,
            "build_id": BUILD,
            "pretty_name": f"Bottlerocket OS {self.version} ({self.variant})",
            "variant_id": self.variant,
            "version_id": self.version,
        }


def releases() -> Iterator[Release]:
    for minor in MINORS:
        for flavour in FLAVOURS:
            for architecture in ARCHITECTURES:
                for version in VERSIONS:
                    yield Release(f"aws-k8s-1.{minor}{flavour}", architecture, version)


def parameters(region: str) -> Iterator[tuple[str, str]]:
    for release in releases():
        names = [release.version] + (["latest"] if release.version == VERSIONS[0] else [])
        for name in names:
            base = f"{PREFIX}/{release.variant}/{release.architecture}/{name}"
            yield f"{base}/image_id", release.image_id(region)
            yield f"{base}/image_version", f"{release.version}-{BUILD}"
