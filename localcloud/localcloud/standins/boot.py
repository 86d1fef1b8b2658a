"""Files that a boot of Bottlerocket writes: configuration, and state on the data volume.

State files have their real paths and formats, above all the secrets, so that
tests detect a scrub that misses one of them.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import tarfile
import tomllib
import uuid
from pathlib import Path
from typing import Any

HOST_CONTAINERS = "local/host-containers"
SECRET = "localcloud-secret"  # noqa: S105
"""Part of every secret, so that a test can search the blocks of a volume for it."""
PROXY = "etc/network/proxy.env"
"""Environment file of containerd, host containers and pulls, from `settings.network`."""
AUTHORITIES = "etc/pki/tls/certs/ca-bundle.crt"
"""Trusted authorities: those of the system, and those of `settings.pki`."""
SNAPSHOTTER = 'ACTIVE_SNAPSHOTTER="overlayfs"\n'
"""Content of the file with the active snapshotter."""
PR_SET_CHILD_SUBREAPER = 36

UNUSED_PLUGINS = [
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.native",
    "io.containerd.snapshotter.v1.zfs",
]

CONTAINERD_CONFIG = """\
version = {version}
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = {unused}

[grpc]
address = "/run/containerd/containerd.sock"

{cri}
"""

# CRI in containerd 1.x, and in 2.x, where it is two plugins:
# https://github.com/containerd/containerd/blob/main/docs/cri/config.md
# Like Bottlerocket, it sets no `config_path`, which excludes mirrors.
CRI_CONFIG = """\
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = {restrict_oom}
"""
CRI_CONFIG_OF_2 = """\
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = {restrict_oom}
"""

PAUSE_IMAGE = "localhost/kubernetes/pause:0.1.0"
"""Name of the image of pod sandboxes, which belongs to Bottlerocket and not to a registry."""
PAUSE_ARCHIVE = "usr/libexec/kubernetes/kubernetes-pause.tar"
LOAD_PAUSE_IMAGE = f"""
ctr --namespace=k8s.io images import --all-platforms /{PAUSE_ARCHIVE} &&
ctr --namespace=k8s.io images label {PAUSE_IMAGE} io.cri-containerd.pinned=pinned
"""
"""Bottlerocket does this each time before kubelet starts: prestart-load-pause-ctr.conf
in https://github.com/bottlerocket-os/bottlerocket-core-kit/tree/v3.1.0/packages/kubernetes-1.31"""


def read_settings(user_data: str) -> dict[str, Any] | None:
    """Returns the settings in the user data; `None` if it is not readable TOML."""
    try:
        return tomllib.loads(user_data).get("settings", {})
    except tomllib.TOMLDecodeError:
        return None


def setting(settings: dict[str, Any], *path: str) -> Any:
    found: Any = settings
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def write(root: Path, name: str, text: str | bytes, mode: int = 0o644) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)


def write_configuration(root: Path, config: dict[str, Any], settings: dict[str, Any]) -> str:
    """Fills /etc and returns the machine's ID."""
    machine_id = uuid.uuid5(uuid.NAMESPACE_DNS, config["instance_id"]).hex
    write(root, "etc/machine-id", f"{machine_id}\n")
    write(root, "etc/hostname", f"{config['hostname']}\n")
    write(root, "etc/hosts", f"127.0.0.1 localhost {config['hostname']}\n::1 localhost\n")
    write_network(root, settings)
    registry = settings.get("container-registry", {})
    write(root, "etc/host-containers/host-ctr.toml", host_ctr_toml(registry), 0o600)

    major = containerd_major()
    if major < 2:
        version, cri, images = 2, CRI_CONFIG, "io.containerd.grpc.v1.cri"
    else:
        version, cri, images = 3, CRI_CONFIG_OF_2, "io.containerd.cri.v1.images"
    cri = cri.format(pause=PAUSE_IMAGE, restrict_oom=json.dumps(not can_lower_oom_score()))
    write(
        root,
        "etc/containerd/config.toml",
        CONTAINERD_CONFIG.format(
            version=version,
            unused=json.dumps(UNUSED_PLUGINS),
            cri=cri + cri_mirrors(registry, images),
        ),
    )
    if config["kind"] == "real":
        write(root, PAUSE_ARCHIVE, pause_archive(config["architecture"]))
    node = {
        name: config[name]
        for name in (
            "architecture",
            "machine_architecture",
            "kind",
            "endpoint",
            "region",
            "credentials",
            "registries",
            "os",
        )
    }
    node["pull_retry_seconds"] = config["timings"]["pull_retry_seconds"]
    node["containerd_major"] = major
    node["disk_full_after_bytes"] = config["disk_full_after_bytes"]
    write(root, "run/localcloud/node.json", json.dumps(node), 0o600)
    write(root, "run/localcloud/os.json", json.dumps({"os": config["os"]}, indent=2) + "\n")
    return machine_id


def write_network(root: Path, settings: dict[str, Any]) -> None:
    """Writes the proxy for services, and the trusted authorities, as Bottlerocket does.

    Source: the templates of `proxy-env`, and `certdog`, in bottlerocket-core-kit.
    """
    network = settings.get("network", {})
    proxy = network.get("https-proxy", "")
    variables = {}
    if proxy:
        url = proxy if "://" in proxy else f"http://{proxy}"
        hosts = ",".join([*network.get("no-proxy", []), "localhost", "127.0.0.1"])
        variables = {"HTTPS_PROXY": url, "https_proxy": url, "NO_PROXY": hosts, "no_proxy": hosts}
    write(root, PROXY, "".join(f"{name}={value}\n" for name, value in variables.items()))
    trusted = [
        base64.b64decode(bundle["data"])
        for bundle in settings.get("pki", {}).values()
        if bundle.get("trusted")
    ]
    if trusted:
        system = ssl.get_default_verify_paths().openssl_cafile
        known = Path(system).read_bytes() if Path(system).exists() else b""
        write(root, AUTHORITIES, b"\n".join([known, *trusted]))


def network_environment(root: Path) -> dict[str, str]:
    """Returns the variables of services that reach registries."""
    lines = (root / PROXY).read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    if (root / AUTHORITIES).exists():
        variables["SSL_CERT_FILE"] = f"/{AUTHORITIES}"
    return variables


def cri_mirrors(registry: dict[str, Any], plugin: str) -> str:
    """Renders the mirrors of settings.container-registry for containerd as Bottlerocket does.

    Source: `containerd-config-toml_k8s_containerd_sock` in bottlerocket-core-kit.
    """
    return "".join(
        f"\n[plugins.{json.dumps(plugin)}.registry.mirrors.{json.dumps(mirror['registry'])}]\n"
        f"endpoint = {json.dumps(mirror['endpoint'])}\n"
        for mirror in registry.get("mirrors", [])
    )


def host_ctr_toml(registry: dict[str, Any]) -> str:
    """Renders settings.container-registry for host-ctr as Bottlerocket does."""
    lines = []
    for mirror in registry.get("mirrors", []):
        lines.append(f"[mirrors.{json.dumps(mirror['registry'])}]")
        lines.append(f"endpoints = {json.dumps(mirror['endpoint'])}")
    for credential in registry.get("credentials", []):
        host = credential["registry"]
        if host == "docker.io":
            host = "registry-1.docker.io"
        lines.append(f"[creds.{json.dumps(host)}]")
        for name in ("username", "password", "auth", "identitytoken"):
            if name in credential:
                lines.append(f"{name} = {json.dumps(credential[name])}")
    return "\n".join(lines) + "\n"


def can_lower_oom_score() -> bool:
    """Returns whether this process can start one that is killed late when memory runs out.

    A sandbox asks for -998. Only CAP_SYS_RESOURCE allows that: man 5 proc_pid_oom_score_adj.
    """
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    try:
        score.write_text("-998")
    except PermissionError:
        return False
    score.write_text(before)
    return True


def pause_archive(architecture: str) -> bytes:
    """Returns the image of pod sandboxes as a Docker archive. Its program only sleeps."""
    program = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    layer = tar_of({"busybox": program})
    config = {
        "architecture": {"x86_64": "amd64"}.get(architecture, architecture),
        "os": "linux",
        # 68 years.
        "config": {"Entrypoint": ["/busybox", "sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    return tar_of(
        {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def tar_of(files: dict[str, bytes]) -> bytes:
    """Returns an archive whose bytes depend on nothing but the files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            writer.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def containerd_major() -> int:
    command = ["/run/localcloud/containerd/containerd", "--version"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 1
    found = re.search(r"\bv?(\d+)\.\d+", output.partition(" ")[2])
    return int(found[1]) if found else 1


def write_state(root: Path, config: dict[str, Any]) -> None:
    """Writes the files that services leave on the data volume at every boot."""
    user_data = config["user_data"]
    for container in ("admin", "control"):
        write(root, f"{HOST_CONTAINERS}/{container}/user-data", user_data, 0o600)
    write(root, "local/bootstrap-containers/setup/user-data", user_data, 0o600)
    write(root, "var/lib/kubelet/pki/kubelet.key", private_key("kubelet"), 0o600)
    write(root, "var/lib/kubelet/cpu_manager_state", '{"policyName":"none"}')
    write(root, "var/lib/netdog/primary_interface", "eth0\n")
    write(root, "var/lib/host-containerd/io.containerd.metadata.v1.bolt/meta.db", b"\0" * 4096)
    configure_snapshotter(root)
    (root / "var/lib/containerd").mkdir(parents=True, exist_ok=True)


def configure_snapshotter(root: Path) -> None:
    """Deletes containerd's data if another snapshotter wrote it, as configure-snapshotter.service.

    Source: packages/containerd in bottlerocket-core-kit, from 10.0.0 on.
    """
    active = root / "var/cache/containerd/active-snapshotter"
    if active.exists() and active.read_text() != SNAPSHOTTER:
        shutil.rmtree(root / "var/lib/containerd", ignore_errors=True)
    write(root, "var/cache/containerd/active-snapshotter", SNAPSHOTTER)


def write_admin_state(root: Path) -> None:
    for kind in ("rsa", "ecdsa", "ed25519"):
        name = f"{HOST_CONTAINERS}/admin/etc/ssh/ssh_host_{kind}_key"
        write(root, name, private_key(kind), 0o600)


def write_agent_state(root: Path, instance_id: str) -> None:
    base = f"{HOST_CONTAINERS}/control/ssm"
    write(root, f"{base}/Vault/Store/RegistrationKey", private_key("agent"), 0o600)
    write(root, f"{base}/{instance_id}/session/.keep", "")


def command_directory(root: Path, instance_id: str, command_id: str) -> Path:
    """Returns the agent's directory for a command's script and output."""
    path = (
        root
        / f"{HOST_CONTAINERS}/control/ssm/{instance_id}/document/orchestration"
        / command_id
        / "awsrunShellScript/0.awsrunShellScript"
    )
    path.mkdir(parents=True, exist_ok=True)
    return path


def save_random_seed(root: Path) -> None:
    """Writes the seed into the existing blocks of the file, as systemd-random-seed does."""
    path = root / "var/lib/systemd/random-seed"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, SECRET.encode() + os.urandom(32))
    os.close(descriptor)


def private_key(name: str) -> str:
    """Returns a fake key."""
    body = f"{SECRET} {os.urandom(48).hex()}"
    return f"-----BEGIN PRIVATE KEY-----\n{name} {body}\n-----END PRIVATE KEY-----\n"


# Processes of a node that has no PID namespace


def become_subreaper() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    while pids := descendants(os.getpid()):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        while reap_one():
            pass


def descendants(ancestor: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name in brackets can contain spaces; the parent follows it.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {ancestor})


def reap_one() -> bool:
    """Waits for one child; returns False without children."""
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        return False
    return True
