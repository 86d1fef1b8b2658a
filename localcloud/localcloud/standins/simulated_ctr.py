"""`ctr` on a simulated node: blobs in a directory, images in a JSON file."""

from __future__ import annotations

import argparse
import fcntl
import gzip
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from content import Image, chain_ids, check, digest_of, manifest_for, print_checks, table
from this_node import FULL, ROOT, description, platform

VERSION = "0.0.0-simulated"


class SimulatedStore:
    """The content that containerd keeps below /var/lib/containerd.

    Locked while it is open, because pulls and checks run side by side.
    """

    def __init__(self, directory: Path, platform: str) -> None:
        self.platform = platform
        self.blobs = directory / "io.containerd.content.v1.content/blobs/sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._file = directory / "simulated.json"
        self.records: dict[str, Any] = {"images": {}, "snapshots": []}
        if self._file.exists():
            self.records = json.loads(self._file.read_text())

    def save(self) -> None:
        self._file.write_text(json.dumps(self.records))

    def path(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def images(self, filters: list[str]) -> Iterable[Image]:
        for name, record in sorted(self.records["images"].items()):
            if not filters or any(matches(name, text) for text in filters):
                yield Image(name, record["media_type"], record["digest"])

    def blob(self, digest: str) -> bytes | None:
        return self.path(digest).read_bytes() if self.has(digest) else None

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def add_blob(self, digest: str, content: bytes) -> None:
        """Stores a blob. Raises ValueError if the digest does not match or the disk is full."""
        if digest_of(content) != digest:
            raise ValueError(f"failed commit on ref {digest}: unexpected digest")
        take_space(len(content))
        self.path(digest).write_bytes(content)

    def is_unpacked(self, chain: str) -> bool:
        return chain in self.records["snapshots"]

    def unpack(self, digest: str) -> None:
        """Raises ValueError if a layer does not match the image's configuration.

        It does not keep the files: the check of the archive is enough.
        """
        manifest = manifest_for(self, digest)
        config = self.blob(manifest["config"]["digest"]) if manifest else None
        if config is None:
            raise ValueError(f"no match for platform in manifest {digest}: not found")
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        for layer, diff_id, chain in zip(
            manifest["layers"], diff_ids, chain_ids(diff_ids), strict=True
        ):
            if chain not in self.records["snapshots"]:
                self._check_layer(layer, diff_id)
                self.records["snapshots"].append(chain)

    def _check_layer(self, layer: dict[str, Any], diff_id: str) -> None:
        if not layer["mediaType"].endswith("gzip"):
            return  # Of other compressions the standard library knows nothing.
        try:
            with gzip.open(self.path(layer["digest"])) as unpacked:
                found = f"sha256:{hashlib.file_digest(unpacked, 'sha256').hexdigest()}"
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"failed to extract layer {diff_id}: {error}") from error
        if found != diff_id:
            raise ValueError(f"failed to extract layer {diff_id}: wrong diff id {found}")

    def labels(self, digest: str) -> Iterator[str]:
        """Returns the labels that lead from a manifest or an index to its parts."""
        try:
            content = json.loads(self.blob(digest) or b"{}")
        except ValueError:
            return  # A layer.
        parts = {f"m.{n}": part for n, part in enumerate(content.get("manifests", []))}
        parts |= {f"l.{n}": part for n, part in enumerate(content.get("layers", []))}
        if isinstance(content.get("config"), dict) and "digest" in content["config"]:
            parts["config"] = content["config"]
        for name, part in parts.items():
            yield f"containerd.io/gc.ref.content.{name}={part['digest']}"

    def collect_garbage(self) -> None:
        """Removes blobs without a reference from an image, as containerd does."""
        wanted = set()
        for record in self.records["images"].values():
            wanted |= set(self._reachable(record["digest"]))
        for path in self.blobs.iterdir():
            if f"sha256:{path.name}" not in wanted:
                path.unlink()

    def _reachable(self, digest: str) -> Iterator[str]:
        yield digest
        content = json.loads(self.blob(digest) or b"{}")
        for entry in content.get("manifests", []):
            yield from self._reachable(entry["digest"])
        for part in (content.get("config"), *content.get("layers", [])):
            if part:
                yield part["digest"]


def take_space(size: int) -> None:
    """Counts the bytes of a boot. Raises ValueError with containerd's text at the limit.

    As on a real full disk, a removal after that frees no space until the next boot.
    """
    limit = description()["disk_full_after_bytes"]
    if limit is None:
        return
    counter = ROOT / "run/localcloud/written"
    written = size + (int(counter.read_text()) if counter.exists() else 0)
    if written > limit or FULL.exists():
        FULL.touch()
        file = "/var/lib/containerd/io.containerd.content.v1.content/ingest/data"
        raise ValueError(
            f"failed to copy: failed to send write: write {file}: no space left on device"
        )
    counter.write_text(str(written))


@contextmanager
def store() -> Iterator[SimulatedStore]:
    directory = ROOT / "var/lib/containerd"
    directory.mkdir(parents=True, exist_ok=True)
    with open(ROOT / "run/localcloud/containerd.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield SimulatedStore(directory, platform())


def matches(name: str, text: str) -> bool:
    """Applies containerd's filters by name."""
    found = re.fullmatch(r'name(==|~=)"?(.*?)"?', text)
    if found is None:
        sys.exit(f"ctr: filter {text!r} is not simulated")
    if found[1] == "==":
        return name == found[2]
    return re.search(found[2].strip("/"), name) is not None


def list_images(options: argparse.Namespace) -> None:
    with store() as content:
        images = list(content.images(options.words))
        if options.quiet:
            print("".join(f"{image.name}\n" for image in images), end="")
            return
        rows = [("REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS")]
        for image in images:
            labels = content.records["images"][image.name]["labels"]
            text = ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "-"
            rows.append((image.name, image.media_type, image.digest, "-", content.platform, text))
        print("\n".join(table(rows)))


def check_images(options: argparse.Namespace) -> None:
    with store() as content:
        print_checks(content, options.words, options.quiet)


def tag_image(options: argparse.Namespace) -> None:
    source, *targets = options.words
    with store() as content:
        images = content.records["images"]
        if source not in images:
            sys.exit(f'ctr: image "{source}": not found')
        for target in targets:
            if target in images and not options.force:
                sys.exit(f'ctr: image "{target}": already exists')
            images[target] = dict(images[source])
            print(target)
        content.save()


def label_image(options: argparse.Namespace) -> None:
    name, *labels = options.words
    with store() as content:
        images = content.records["images"]
        if name not in images:
            sys.exit(f'ctr: image "{name}": not found')
        kept = images[name]["labels"] | dict(label.partition("=")[::2] for label in labels)
        # An empty value removes a label.
        images[name]["labels"] = {key: value for key, value in kept.items() if value}
        content.save()


def remove_images(options: argparse.Namespace) -> None:
    with store() as content:
        for name in options.words:
            if content.records["images"].pop(name, None):
                print(name)
            else:
                # Not an error: the removal of the other names continues.
                print(f"{name}: image not found", file=sys.stderr)
        content.collect_garbage()
        content.save()


def list_content(options: argparse.Namespace) -> None:
    with store() as content:
        paths = sorted(content.blobs.iterdir())
        if options.quiet:
            print("".join(f"sha256:{path.name}\n" for path in paths), end="")
            return
        print("DIGEST\tSIZE\tAGE\tLABELS")
        for path in paths:
            labels = ",".join(content.labels(f"sha256:{path.name}")) or "-"
            print(f"sha256:{path.name}\t{path.stat().st_size}B\t-\t{labels}")


def get_content(options: argparse.Namespace) -> None:
    with store() as content:
        blob = content.blob(options.words[0])
    if blob is None:
        sys.exit(f"ctr: content {options.words[0]}: not found")
    sys.stdout.buffer.write(blob)


def view_snapshot(_: argparse.Namespace) -> None:
    """Prints no mount, because nothing is unpacked."""


def run_nothing(options: argparse.Namespace) -> None:
    """Accepts the start of a container whose image is unpacked, and runs nothing."""
    with store() as content:
        for image in content.images([f"name=={options.words[0]}"]):
            if check(content, image).ready:
                return
    sys.exit(f"ctr: image {options.words[0]!r} is not unpacked")


def show_version(_: argparse.Namespace) -> None:
    for side in ("Client", "Server"):
        print(f"{side}:\n  Version:  {VERSION}\n  Revision: simulated\n")


COMMANDS = {
    ("images", "ls"): list_images,
    ("images", "list"): list_images,
    ("images", "check"): check_images,
    ("images", "tag"): tag_image,
    ("images", "label"): label_image,
    ("images", "rm"): remove_images,
    ("images", "remove"): remove_images,
    ("images", "delete"): remove_images,
    ("content", "ls"): list_content,
    ("content", "get"): get_content,
    ("snapshots", "view"): view_snapshot,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="ctr")
    parser.add_argument("-a", "--address")
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--snapshotter")
    for name in ("--detach", "--null-io", "--read-only"):
        parser.add_argument(name, action="store_true")
    for name in ("--memory-limit", "--mount", "--target"):
        parser.add_argument(name)
    parser.add_argument("group")
    parser.add_argument("words", nargs="*")
    options = parser.parse_intermixed_args()
    if options.group == "version":
        show_version(options)
        return 0
    if options.group == "run":
        run_nothing(options)
        return 0
    group = "images" if options.group in ("image", "i") else options.group
    verb = options.words.pop(0) if options.words else ""
    command = COMMANDS.get((group, verb))
    if command is None:
        sys.exit(f"ctr: {group} {verb} is not simulated")
    if options.namespace != "k8s.io":
        sys.exit(f"ctr: namespace {options.namespace} is not simulated")
    command(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
