"""`python -m localcloud --port PORT --state DIRECTORY`

`python -m localcloud patches` writes PATCHES.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import types
from importlib import import_module
from pathlib import Path

from . import patching
from .cloud import Cloud, Unusable

log = logging.getLogger("localcloud")

# Installation order; the stop runs in reverse.
MODULES = (
    "edge",
    "iam.enforcement",
    "iam.simulation",
    "quotas",
    "registries",
    "stepfunctions",
    "lambdas",
    "events",
    "ecr",
    "vpc",
    "ec2",
    "launch_templates",
    "ssm",
)


def main() -> int:
    options = _parse_arguments()
    if options.command == "patches":
        _write_patches(options.output)
        return 0
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("werkzeug", "botocore", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # moto logs every error that a state machine handles, once for each nested element.
    logging.getLogger("moto").setLevel(logging.CRITICAL)
    options.state.mkdir(parents=True, exist_ok=True)
    cloud = Cloud(port=options.port, state=options.state.resolve())
    cloud.about["endpoint"] = cloud.endpoint
    _end_on_signals(cloud)
    _configure_moto(cloud)

    # Import moto only now: it reads its settings at import.
    from .edge import ControlledApplication, RequestHandler

    try:
        for name in MODULES:
            import_module(f".{name}", "localcloud").install(cloud)
        _serve(cloud, ControlledApplication, RequestHandler)
    except Unusable as reason:
        print(f"localcloud: {reason}", file=sys.stderr)
        return 1
    finally:
        cloud.stopping.set()
        _stop(cloud)
    for violation in cloud.violations():
        print(f"localcloud: violation of a service model: {violation}", file=sys.stderr)
    return 3 if cloud.violations() else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="localcloud", description="AWS on one machine.")
    parser.add_argument("--port", type=int, help="port of all AWS APIs")
    parser.add_argument("--state", type=Path, help="directory for the state of the cloud")
    commands = parser.add_subparsers(dest="command")
    patches = commands.add_parser("patches", help="write the list of patches of moto")
    patches.add_argument("--output", type=Path, default=patching.PATCHES_FILE, help="file to write")
    options = parser.parse_args()
    if options.command is None and (options.port is None or options.state is None):
        parser.error("the following arguments are required: --port, --state")
    return options


def _write_patches(output: Path) -> None:
    """Installs the modules without starting a registry or a node, and writes their patches."""
    os.environ["PREPULL_NODES"] = "simulated"
    with tempfile.TemporaryDirectory(prefix="localcloud-patches-") as state:
        cloud = Cloud(port=0, state=Path(state))
        _configure_moto(cloud)
        try:
            for name in MODULES:
                if name != "registries":
                    import_module(f".{name}", "localcloud").install(cloud)
        finally:
            cloud.stopping.set()
            _stop(cloud)
    output.write_text(patching.document(patching.applied()))


def _end_on_signals(cloud: Cloud) -> None:
    def end(number: int, _frame: types.FrameType | None) -> None:
        if cloud.stopping.is_set():
            return  # A second Ctrl-C must not interrupt the stop.
        cloud.stopping.set()
        log.info("%s: stopping", signal.Signals(number).name)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _configure_moto(cloud: Cloud) -> None:
    os.environ["MOTO_PORT"] = str(cloud.port)
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
    from moto.core import config

    patching.patch(
        config,
        "default_user_config[stepfunctions]",
        {"execute_state_machine": True},
        reason="Executes state machines.",
    )
    patching.patch(
        config,
        "default_user_config[lambda]",
        {"use_docker": False},
        reason="Uses functions without Docker.",
    )


def _serve(cloud: Cloud, wrap: type, handler: type) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = wrap(cloud, DomainDispatcherApplication(create_backend_app))
    server = make_server(
        "127.0.0.1",
        cloud.port,
        application,
        threaded=True,
        request_handler=handler,
    )
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(json.dumps({"ready": cloud.about}, default=str), flush=True)
    cloud.stopping.wait()
    server.shutdown()
    server.server_close()


def _stop(cloud: Cloud) -> None:
    for callback in reversed(cloud.stop_callbacks):
        try:
            callback()
        except Exception:
            log.exception("stop callback failed")


if __name__ == "__main__":
    sys.exit(main())
