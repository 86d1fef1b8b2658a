"""`host-ctr pull-image`: Bottlerocket's image puller, on top of `ctr`.

Like the real one, it gets the token for private ECR through the instance's role,
and other credentials from the registry configuration. It retries five times and
unpacks. It records an ECR image under two names: the canonical and the requested
one.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simulated_pull
from endpoints import ECR, Endpoint, PullFailed, endpoints, split_host
from this_node import PLATFORMS, description

RETRIES = 5


def log(level: str, message: str, **fields: str) -> None:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    more = "".join(f" {name}={json.dumps(value)}" for name, value in fields.items())
    stream = sys.stderr if level in ("error", "fatal") else sys.stdout
    print(f'time="{when}" level={level} msg={json.dumps(message)}{more}', file=stream, flush=True)


def hosts_toml(places: list[Endpoint]) -> str:
    """Writes containerd's hosts.toml; it keeps the token off the command line.

    The last endpoint is the server. It is also among the hosts, because containerd
    1.6 ignores a file without hosts. Its settings are also at the top, because
    containerd asks the server again for content that a host lacks.
    """
    server = places[-1]
    lines = [f"server = {json.dumps(server.url)}", *host_lines(server)]
    if server.authorization:
        lines += ["[header]", f"Authorization = {json.dumps(server.authorization)}"]
    for place in places:
        table = f"host.{json.dumps(place.url)}"
        lines += [f"[{table}]", *host_lines(place)]
        if place.authorization:
            lines.append(f"[{table}.header]")
            lines.append(f"Authorization = {json.dumps(place.authorization)}")
    return "\n".join(lines) + "\n"


def host_lines(place: Endpoint) -> list[str]:
    lines = ['capabilities = ["pull", "resolve"]']
    return [*lines, 'ca = "/run/localcloud/ca.pem"'] if place.ours else lines


def pull_once(
    reference: str, places: list[Endpoint], labels: list[str], config: dict[str, Any]
) -> None:
    """Fetches and unpacks. Raises PullFailed with the puller's last line."""
    if config["kind"] == "simulated":
        simulated_pull.pull(reference, places, labels)
        return
    host, _ = split_host(reference)
    with tempfile.TemporaryDirectory(dir="/run/localcloud") as directory:
        file = Path(directory) / host / "hosts.toml"
        file.parent.mkdir()
        file.write_text(hosts_toml(places))
        command = [
            "/run/localcloud/ctr",
            "--address=/run/containerd/containerd.sock",
            "--namespace=k8s.io",
            "images",
            "pull",
            f"--hosts-dir={directory}",
            f"--platform={PLATFORMS[config['architecture']]}",
            *(f"--label={label}" for label in labels),
            # The daemon's own pull does not unpack another machine's platform.
            *(["--local"] if config["containerd_major"] >= 2 else []),
            reference,
        ]
        # Progress goes to a file: a full pipe without a reader stops the pull.
        with tempfile.TemporaryFile(dir=directory) as output:
            code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
            output.seek(max(0, output.seek(0, 2) - 2000))
            words = output.read().decode(errors="replace").strip()
    if code:
        raise PullFailed(words.splitlines()[-1] if words else f"ctr ended with {code}")


def tag(source: str, target: str) -> None:
    command = ["ctr", "--namespace=k8s.io", "images", "tag", "--force", source, target]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def canonical(reference: str) -> str | None:
    """Returns the image's name in the records of the ECR resolver."""
    ecr = ECR.match(reference)
    if ecr is None:
        return None
    return f"ecr.aws/arn:aws:ecr:{ecr['region']}:{ecr['account']}:repository/{ecr['path']}"


def pull(
    reference: str, registry_config: str, labels: list[str], say: Callable[..., None] = log
) -> None:
    """Retries a pull. Raises PullFailed after the last failure."""
    config = description()
    interval = float(config["pull_retry_seconds"])
    for attempt in range(RETRIES + 1):
        try:
            pull_once(reference, endpoints(reference, registry_config, config), labels, config)
            break
        except PullFailed as failure:
            if attempt == RETRIES:
                raise PullFailed(f"retries exhausted: {failure}") from failure
            wait = interval * (1 + random.random())
            text = f"failed to pull image. waiting {wait:.1f}s before retrying..."
            say("warning", text, error=str(failure))
            time.sleep(wait)
            interval *= 2
    name = canonical(reference)
    say("info", "pulled image successfully", img=name or reference)
    say("info", "unpacking image...", img=name or reference)
    if name is not None:
        tag(reference, name)
        say("info", "tagging image", img=reference)


def is_listed(reference: str) -> bool:
    command = ["ctr", "--namespace=k8s.io", "images", "ls", "--quiet", f"name=={reference}"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return reference in found.splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(prog="host-ctr")
    parser.add_argument("-s", "--containerd-socket", default="/run/host-containerd/containerd.sock")
    parser.add_argument("-n", "--namespace", default="default")
    verbs = parser.add_subparsers(dest="verb", required=True)
    pulling = verbs.add_parser("pull-image")
    pulling.add_argument("--source", required=True)
    pulling.add_argument("--registry-config", default="")
    pulling.add_argument("--skip-if-image-exists", action="store_true")
    pulling.add_argument("--label", action="append", default=[])
    options = parser.parse_args()
    if options.containerd_socket != "/run/containerd/containerd.sock":
        log("fatal", f"failed to dial {options.containerd_socket}")
        return 1
    if options.namespace != "k8s.io":
        log("fatal", f"namespace {options.namespace} is not simulated")
        return 1
    if options.skip_if_image_exists and is_listed(options.source):
        log("info", "Image exists, fetching cached image from image store", ref=options.source)
        return 0
    try:
        pull(options.source, options.registry_config, options.label)
    except PullFailed as failure:
        log("error", str(failure), ref=canonical(options.source) or options.source)
        log("fatal", str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
