"""`host-ctr pull-image`: Bottlerocket's image puller, on top of `ctr`.

Like the real one, it gets the token for private ECR through the instance's role,
and other credentials from the registry configuration. It retries the download five
times, but not the unpack. In older releases an ECR image has two names: that of the
ECR resolver, and the requested one.
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

from endpoints import Endpoint, PullFailed, ecr_image, endpoints, has_ecr_resolver, split_host
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


def fetch(
    reference: str, places: list[Endpoint], labels: list[str], config: dict[str, Any]
) -> None:
    """Downloads an image. Raises PullFailed with the last line of the output.

    For another machine's platform it also unpacks the image, because `ctr` has no
    separate command for that.
    """
    if config["kind"] == "simulated":
        # The import takes longer than the rest of the start.
        import simulated_pull

        simulated_pull.pull(reference, places, labels)
        return
    host, _ = split_host(reference)
    is_native = config["architecture"] == config["machine_architecture"]
    with tempfile.TemporaryDirectory(dir="/run/localcloud") as directory:
        file = Path(directory) / host / "hosts.toml"
        file.parent.mkdir()
        file.write_text(hosts_toml(places))
        command = [
            *(("content", "fetch") if is_native else ("images", "pull")),
            f"--hosts-dir={directory}",
            f"--platform={PLATFORMS[config['architecture']]}",
            *(f"--label={label}" for label in labels),
            # The daemon's own pull does not unpack another machine's platform.
            *(["--local"] if config["containerd_major"] >= 2 and not is_native else []),
            reference,
        ]
        run(command, directory)


def unpack(reference: str, config: dict[str, Any]) -> None:
    """Unpacks a downloaded image. Raises PullFailed with the last line of the output."""
    if config["kind"] == "simulated" or config["architecture"] != config["machine_architecture"]:
        return
    with tempfile.TemporaryDirectory(dir="/run/localcloud") as directory:
        digest = reference.partition("@")[2]
        if not digest:
            listed = run(["images", "ls", f"name=={reference}"], directory)
            digest = listed.splitlines()[-1].split()[2]
        run(["snapshots", "unpack", digest], directory)


def run(arguments: list[str], directory: str) -> str:
    """Runs `ctr` and returns its output. Raises PullFailed with its last line."""
    command = [
        "/run/localcloud/ctr",
        "--address=/run/containerd/containerd.sock",
        "--namespace=k8s.io",
        *arguments,
    ]
    # Progress goes to a file: a full pipe without a reader stops the pull.
    with tempfile.TemporaryFile(dir=directory) as output:
        code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
        output.seek(max(0, output.seek(0, 2) - 2000))
        words = output.read().decode(errors="replace").strip()
    if code:
        raise PullFailed(words.splitlines()[-1] if words else f"ctr ended with {code}")
    return words


def tag(source: str, target: str, config: dict[str, Any]) -> None:
    command = ["ctr", "--namespace=k8s.io", "images", "tag", "--force"]
    # `ctr` of containerd 2.x refuses names of the ECR resolver. host-ctr does not check names.
    if config["containerd_major"] >= 2:
        command.append("--skip-reference-check")
    subprocess.run([*command, source, target], check=True, stdout=subprocess.DEVNULL)


def resolver_name(reference: str, config: dict[str, Any]) -> str | None:
    """Returns the second name of an image from private ECR.

    Releases before 1.54 pull it with the resolver of amazon-ecr-containerd-resolver.
    """
    ecr = ecr_image(reference, config)
    if ecr is None or not has_ecr_resolver(config):
        return None
    return f"ecr.aws/arn:aws:ecr:{ecr['region']}:{ecr['account']}:repository/{ecr['path']}"


def pull(
    reference: str, registry_config: str, labels: list[str], say: Callable[..., None] = log
) -> None:
    """Fetches with retries, then unpacks once. Raises PullFailed.

    Source of the order, the number of retries and the messages: `pullImage` in
    sources/host-ctr/cmd/host-ctr/main.go of bottlerocket-core-kit.
    """
    config = description()
    interval = float(config["pull_retry_seconds"])
    for attempt in range(RETRIES + 1):
        try:
            fetch(reference, endpoints(reference, registry_config, config), labels, config)
            break
        except PullFailed as failure:
            if attempt == RETRIES:
                raise PullFailed(f"retries exhausted: {failure}") from failure
            # One second, doubled each time, and 2 to 6 more. `pull_retry_seconds` scales it.
            wait = interval + float(config["pull_retry_seconds"]) * random.uniform(2, 6)
            text = f"failed to pull image. waiting {wait:.1f}s before retrying..."
            say("warning", text, error=str(failure))
            time.sleep(wait)
            interval *= 2
    name = resolver_name(reference, config)
    say("info", "pulled image successfully", img=name or reference)
    say("info", "unpacking image...", img=name or reference)
    try:
        unpack(reference, config)
    except PullFailed as failure:
        raise PullFailed(f"failed to unpack image: {failure}") from failure
    if name is not None:
        tag(reference, name, config)
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
        log("error", str(failure), ref=options.source)
        log("fatal", str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
