"""Two real container registries: the one behind private ECR, and another.

Both are Debian's `docker-registry` with TLS and a password. The start creates
their certificate authority. A relay in front of the second one simulates
failures.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bcrypt
import trustme
import yaml

from .cloud import ECR_HOST, Answer, Cloud, Registries, Registry, Traffic, Unusable
from .relay import Limits, Relay

PROGRAM = "docker-registry"
NOTIFICATIONS = "registry-notifications"
"""Control route for the ECR registry's push notifications."""

_START_SECONDS = 20
_ACCESS = re.compile(r'"(?:GET|HEAD|POST|PUT|PATCH|DELETE) [^"]*" \d{3} (\d+|-)')


class _Counter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._traffic = Traffic()

    def add(self, body_bytes: int) -> None:
        with self._lock:
            before = self._traffic
            self._traffic = Traffic(before.requests + 1, before.bytes + body_bytes)

    def total(self) -> Traffic:
        with self._lock:
            return self._traffic


def install(cloud: Cloud) -> None:
    program = shutil.which(PROGRAM)
    if program is None:
        raise Unusable(
            f"{PROGRAM} is not installed, and images come from real registries only: "
            f"install the Debian package {PROGRAM} (apt-get install {PROGRAM})"
        )

    root = cloud.state / "registries"
    # A cloud starts empty, and so do its registries.
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)

    authority = trustme.CA(organization_name="prepull localcloud")
    certificate = authority.issue_cert("localhost", "127.0.0.1", ECR_HOST)
    authority.cert_pem.write_to_path(root / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(root / "server.pem")
    (root / "ca-bundle.pem").write_bytes(_system_authorities() + authority.cert_pem.bytes())

    counter = _Counter()
    ecr = _start(cloud, program, root / "ecr", counter, host=ECR_HOST, username="AWS")
    limits = Limits()
    private = _start(
        cloud,
        program,
        root / "private",
        counter,
        host=None,
        username="robot",
        limits=limits,
    )
    cloud.control("registries/private", lambda *request: _limit(limits, *request))
    cloud.on_reset(limits.clear)
    registries = Registries(
        ca_certificate=root / "ca.pem",
        ca_bundle=root / "ca-bundle.pem",
        ecr=ecr,
        private=private,
        traffic=counter.total,
    )
    cloud.registries = registries
    cloud.control("registries/traffic", lambda *_: (200, asdict(counter.total())))
    cloud.about["ca_certificate"] = str(registries.ca_certificate)
    cloud.about["registries"] = {
        name: {
            "host": registry.host,
            "address": registry.address,
            "username": registry.username,
            "password": registry.password,
        }
        for name, registry in (("ecr", ecr), ("private", private))
    }


def _limit(limits: Limits, method: str, _rest: str, _query: Any, body: Any) -> Answer:
    if method == "POST":
        unknown = sorted(body.keys() - {"fail_after_bytes", "repositories"})
        if unknown or "fail_after_bytes" not in body:
            return 400, {"error": f"fail_after_bytes is missing, or unknown: {unknown}"}
        limits.set(body.get("repositories") or "*", body["fail_after_bytes"])
    elif method == "DELETE":
        limits.clear()
    return 200, {"bytes_left": limits.all()}


def _system_authorities() -> bytes:
    """Returns the machine's trusted authorities, including an override."""
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    return Path(bundle).read_bytes() if bundle and Path(bundle).exists() else b""


def _start(
    cloud: Cloud,
    program: str,
    home: Path,
    counter: _Counter,
    *,
    host: str | None,
    username: str,
    limits: Limits | None = None,
) -> Registry:
    """Starts a registry; with limits it runs behind a relay at its address."""
    home.mkdir()
    port = _free_port()
    address = f"localhost:{port}"
    certificate = home.parent / "server.pem"
    password = secrets.token_urlsafe(24)
    # The registry checks the hash at every request; the password is random anyway.
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode()
    (home / "htpasswd").write_text(f"{username}:{hashed}\n")
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(home / "storage")},
            "delete": {"enabled": True},
        },
        "auth": {"htpasswd": {"realm": "localcloud", "path": str(home / "htpasswd")}},
        "http": {
            "addr": f"127.0.0.1:{port}",
            "tls": {"certificate": str(certificate), "key": str(certificate)},
        },
    }
    if limits is not None:
        behind = _free_port()
        config["http"] = {"addr": f"127.0.0.1:{behind}", "host": f"https://{address}"}
        relay = Relay(port, behind, certificate, limits)
        relay.start()
        cloud.on_stop(relay.stop)
    if host == ECR_HOST:
        config["notifications"] = {
            "endpoints": [
                {
                    "name": "ecr",
                    "url": f"{cloud.endpoint}/localcloud/{NOTIFICATIONS}",
                    "timeout": "5s",
                    "threshold": 5,
                    "backoff": "500ms",
                    # Notifications are sequential: those of layers and downloads delay pushes.
                    "ignore": {"mediatypes": ["application/octet-stream"], "actions": ["pull"]},
                }
            ]
        }
    (home / "config.yml").write_text(yaml.safe_dump(config))
    _run(cloud, [program, "serve", str(home / "config.yml")], home / "log", counter)
    _wait_until_listening(config["http"]["addr"])
    return Registry(host or address, address, username, password)


def _run(cloud: Cloud, command: list[str], log_file: Path, counter: _Counter) -> None:
    # A killed cloud must leave no registry behind. Linux sends the signal
    # when the starting thread ends, so this must be the main thread.
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", "KILL", *command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
    )

    def count() -> None:
        assert process.stdout is not None
        with log_file.open("w") as kept:
            for line in process.stdout:
                kept.write(line)
                if match := _ACCESS.search(line):
                    counter.add(0 if match[1] == "-" else int(match[1]))

    def stop() -> None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    threading.Thread(target=count, daemon=True).start()
    cloud.on_stop(stop)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_listening(address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the registry at {address} did not start") from None
            time.sleep(0.05)
