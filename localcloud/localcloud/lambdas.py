"""Lambda: runs the `bootstrap` of a deployed zip against a Runtime API.

Real: the function's binary, its environment, warm reuse, time-outs, crashes,
asynchronous retries, logs in CloudWatch Logs, error payloads as the Step
Functions interpreter and the SDKs expect them. Not real: memory limits, CPU
shares, the freezing of an idle process, layers.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
import uuid
import zipfile
from collections import defaultdict, deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moto.awslambda.exceptions import UnknownEventConfig
from moto.awslambda.models import LambdaFunction
from moto.awslambda_simple.models import LambdaSimpleBackend, lambda_simple_backends

from .calls import scope_of
from .cloud import (
    ACCOUNT,
    REGION,
    STATES_SESSION,
    Cloud,
    Invocation,
    credentials,
    payload_text,
    session_of,
)
from .iam import enforcement
from .iam.policy import Ask
from .patching import api, patch

log = logging.getLogger(__name__)

_ASYNC_WORKERS = 20
_LOG_TAIL_BYTES = 4096
_TIMED_OUT = "timed-out"


@dataclass(frozen=True)
class Result:
    payload: bytes
    function_error: str | None
    log_tail: bytes


class WorkerGone(Exception):
    """The process ended between two invocations; another must take the call."""


class Worker:
    """One process of a function, with a Runtime API of its own.

    As on AWS, a process gets one invocation at a time. It ends after a crash, an
    exit or a time-out.
    """

    def __init__(self, function: LambdaFunction, cloud: Cloud, root: Path) -> None:
        self._function = function
        self._cloud = cloud
        # Part of the process's access key, so that the edge recognises its calls.
        self._session = uuid.uuid4().hex[:12]
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._tail: deque[bytes] = deque(maxlen=100)
        self._is_warm = False
        self._has_taken_request = False
        self._stream = time.strftime("%Y/%m/%d/[$LATEST]") + uuid.uuid4().hex
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self._started = time.monotonic()
        self._first_next: float | None = None
        self._taken = self._answered = self._started
        self._process = subprocess.Popen(
            [str(root / "bootstrap")],
            cwd=root,
            env=self._environment(cloud, root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._collect, daemon=True).start()

    def invoke(self, payload: bytes) -> Result:
        """Raises WorkerGone when a warm process had ended before this call."""
        seconds = float(self._function.timeout)
        self._tail.clear()
        self._has_taken_request = False
        request = _Request(str(uuid.uuid4()), payload, int((time.time() + seconds) * 1000))
        self._cloud.invocations[self._session] = Invocation(
            request.id, payload_text(payload), self.kill, self._time_out
        )
        self._requests.put(request)
        try:
            kind, body = self._outcomes.get(timeout=seconds)
        except queue.Empty:
            self.kill()
            kind, body = _TIMED_OUT, b""
        finally:
            del self._cloud.invocations[self._session]
        if kind == _TIMED_OUT:
            message = f"RequestId: {request.id} Error: Task timed out after {seconds:.2f} seconds"
            return self._failure("Sandbox.Timedout", message)
        if kind == "exit":
            if self._is_warm and not self._has_taken_request:
                raise WorkerGone
            message = f"RequestId: {request.id} Error: Runtime exited with error: {body.decode()}"
            return self._failure("Runtime.ExitError", message)
        if kind == "init-error":
            self.kill()
        self._tail.append(self._report(request.id))
        self._is_warm = True
        return Result(body, None if kind == "response" else "Unhandled", self._log_tail())

    def is_usable(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        if not self.is_usable():
            return  # Its number may be another process's by now.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # Ended by itself, just now.
        self._process.wait()

    def _time_out(self) -> None:
        # Before the report of the process's end: the first outcome counts.
        self._outcomes.put((_TIMED_OUT, b""))
        self.kill()

    def _failure(self, error_type: str, message: str) -> Result:
        body = json.dumps({"errorType": error_type, "errorMessage": message}).encode()
        return Result(body, "Unhandled", self._log_tail())

    def _log_tail(self) -> bytes:
        return b"".join(self._tail)[-_LOG_TAIL_BYTES:]

    def _report(self, request_id: str) -> bytes:
        """Returns the line with which Lambda ends the log of a call.

        Source: Lambda Developer Guide, "Viewing CloudWatch logs for Lambda functions".
        """
        fields = {"Duration": f"{(self._answered - self._taken) * 1000:.2f} ms"}
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            kibibytes = int(status.partition("VmHWM:")[2].split()[0])
            # Lambda rounds to whole MB.
            fields["Max Memory Used"] = f"{kibibytes * 1024 / 1e6:.1f} MB"
        except (OSError, IndexError):
            pass  # The process has ended, or this is not Linux.
        if not self._is_warm and self._first_next is not None:
            fields["Init Duration"] = f"{(self._first_next - self._started) * 1000:.2f} ms"
        text = "".join(f"\t{name}: {value}" for name, value in fields.items())
        return f"REPORT RequestId: {request_id}{text}\n".encode()

    def _environment(self, cloud: Cloud, root: Path) -> dict[str, str]:
        function = self._function
        env = {
            "PATH": os.environ["PATH"],
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "AWS_REGION": function.region,
            "AWS_DEFAULT_REGION": function.region,
            "AWS_ENDPOINT_URL": cloud.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": function.logs_group_name,
            "AWS_LAMBDA_LOG_STREAM_NAME": self._stream,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "LAMBDA_TASK_ROOT": str(root),
            "_HANDLER": function.handler or "bootstrap",
            "SSL_CERT_FILE": str(cloud.registries.ca_bundle),
            **credentials(function.role.rpartition("/")[2], self._session),
        }
        logging_config = getattr(function, "logging_config", {})
        if logging_config.get("LogFormat") == "JSON":
            env["AWS_LAMBDA_LOG_FORMAT"] = "JSON"
            env["AWS_LAMBDA_LOG_LEVEL"] = logging_config.get("ApplicationLogLevel", "INFO")
        return env | function.environment_vars

    def _collect(self) -> None:
        """Copies the process's output to the log group, then reports its end."""
        assert self._process.stdout is not None
        # Lambda writes this line at each process start; its other lines are left out here.
        self._write_log("INIT_START Runtime Version: provided:al2023")
        for line in self._process.stdout:
            self._tail.append(line)
            self._write_log(line.decode(errors="replace").rstrip("\n"))
        status = self._process.wait()
        how = f"signal: {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._outcomes.put(("exit", how.encode()))
        self._requests.put(None)
        self._server.shutdown()
        self._server.server_close()

    def _write_log(self, message: str) -> None:
        """Writes a log line with the function's role. Without permission the line is lost."""
        backend, group = self._function.logs_backend, self._function.logs_group_name
        stream = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:{self._stream}"
        event = {"timestamp": int(time.time() * 1000), "message": message}
        try:
            backend.ensure_log_group(group)
            if self._stream not in backend.groups[group].streams:
                enforcement.check(self._function.role, Ask("logs:CreateLogStream", stream))
                backend.create_log_stream(group, self._stream)
            enforcement.check(self._function.role, Ask("logs:PutLogEvents", stream))
            backend.put_log_events(group, self._stream, [event])
        except Exception as error:
            log.warning("log line of %s lost: %s", self._function.function_name, error)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        worker = self

        class RuntimeApi(BaseHTTPRequestHandler):
            """https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html"""

            protocol_version = "HTTP/1.1"
            # Headers and body are separate writes; the body must not wait for an acknowledgement.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                if worker._first_next is None:
                    worker._first_next = time.monotonic()
                request = worker._requests.get()
                if request is None:
                    self._answer(410, {})
                    return
                worker._has_taken_request = True
                worker._taken = time.monotonic()
                headers = {
                    "Content-Type": "application/json",
                    "Lambda-Runtime-Aws-Request-Id": request.id,
                    "Lambda-Runtime-Deadline-Ms": str(request.deadline_ms),
                    "Lambda-Runtime-Invoked-Function-Arn": worker._function.function_arn,
                    "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-"
                    f"{uuid.uuid4().hex[:24]};Sampled=0",
                }
                self._answer(200, headers, request.payload)

            def do_POST(self) -> None:
                worker._answered = time.monotonic()
                body = self._body()
                # `.../invocation/<id>/response`, `.../invocation/<id>/error`, `.../init/error`
                kind = "init-error" if self.path.endswith("/init/error") else self.path
                worker._outcomes.put((kind.rpartition("/")[2], body))
                self._answer(202, {}, b'{"status":"OK"}')

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                try:
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # The process has ended, which `_collect` tells.

            def log_message(self, *_: Any) -> None:
                pass

        return RuntimeApi


@dataclass(frozen=True)
class _Request:
    id: str
    payload: bytes
    deadline_ms: int


class Functions:
    """The processes of all functions, and the queue of asynchronous calls."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._root = cloud.state / "functions"
        shutil.rmtree(self._root, ignore_errors=True)
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, ...], list[Worker]] = defaultdict(list)
        self._busy: set[Worker] = set()
        self._async = ThreadPoolExecutor(_ASYNC_WORKERS, thread_name_prefix="lambda-async")

    def invoke(self, function: LambdaFunction, payload: bytes) -> Result:
        version = _version(function)
        while True:
            worker = self._take(function, version)
            try:
                return worker.invoke(payload)
            except WorkerGone:
                continue
            finally:
                self._give_back(version, worker)

    def invoke_as_asked(self, function: LambdaFunction, payload: bytes) -> Result:
        """Invokes as often as the setting `deliveries` requires."""
        everything = self._cloud.settings
        settings = everything.of(everything.cache_named_in(payload_text(payload)))
        match settings["deliveries"]:
            case "once":
                return self.invoke(function, payload)
            case "twice":
                self.invoke(function, payload)
                return self.invoke(function, payload)
            case "twice-at-once":
                with ThreadPoolExecutor(2) as pool:
                    both = [pool.submit(self.invoke, function, payload) for _ in range(2)]
                    return list(as_completed(both))[-1].result()
            case other:
                raise ValueError(f"deliveries: {other!r} is not simulated")

    def invoke_later(self, function: LambdaFunction, payload: bytes) -> None:
        """Works as Lambda's event queue: retries a failure, then sends it to the destination."""
        self._async.submit(self._invoke_with_retries, function, payload)

    def stop(self) -> None:
        self._async.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            workers = [*self._busy, *(w for idle in self._idle.values() for w in idle)]
        for worker in workers:
            worker.kill()

    def _take(self, function: LambdaFunction, version: tuple[str, ...]) -> Worker:
        with self._lock:
            outdated = [
                worker
                for key in list(self._idle)
                if key[0] == version[0] and key != version
                for worker in self._idle.pop(key)
            ]
            idle = self._idle[version]
            worker = idle.pop() if idle else None
        for old in outdated:
            old.kill()
        if worker is None or not worker.is_usable():
            worker = Worker(function, self._cloud, self._unpack(function))
        with self._lock:
            self._busy.add(worker)
        if self._cloud.stopping.is_set():
            worker.kill()  # It may have come too late for `stop` to see it.
        return worker

    def _give_back(self, version: tuple[str, ...], worker: Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
            idle = self._idle[version]
            keep = (
                worker.is_usable()
                and len(idle) < self._cloud.settings["idle_processes"]
                and not self._cloud.stopping.is_set()
            )
            if keep:
                idle.append(worker)
        if not keep:
            worker.kill()

    def _unpack(self, function: LambdaFunction) -> Path:
        digest = base64.urlsafe_b64encode(function.code_sha_256.encode()).decode().rstrip("=")
        root = self._root / function.function_name / digest
        with self._lock:
            if not root.exists():
                with zipfile.ZipFile(io.BytesIO(function.code_bytes)) as archive:
                    archive.extractall(root)
                (root / "bootstrap").chmod(0o755)
        return root

    def _invoke_with_retries(self, function: LambdaFunction, payload: bytes) -> None:
        config = _async_config(function)
        attempts = config.get("MaximumRetryAttempts", 2) + 1
        result = None
        for attempt in range(attempts):
            # Lambda waits one minute before the first retry and two before the second.
            wait = attempt * self._cloud.settings["async_retry_seconds"]
            if self._cloud.stopping.wait(wait):
                return
            result = self.invoke(function, payload)
            if result.function_error is None:
                return
        name = function.function_name
        log.warning("%s failed %d times: %s", name, attempts, result and result.payload[:300])
        destination = config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
        dead_letters = getattr(function, "dead_letter_arn", None)
        if result and destination:
            record = {
                "version": "1.0",
                "requestContext": {
                    "functionArn": f"{function.function_arn}:$LATEST",
                    "condition": "RetriesExhausted",
                    "approximateInvokeCount": attempts,
                },
                "requestPayload": json.loads(payload),
                "responseContext": {"functionError": result.function_error},
                "responsePayload": json.loads(result.payload),
            }
            self._send(function, destination, json.dumps(record))
        if dead_letters:
            self._send(function, dead_letters, payload.decode())

    def _send(self, function: LambdaFunction, arn: str, message: str) -> None:
        from .events import deliver  # `events` invokes functions in its turn.

        try:
            deliver({"Arn": arn, "RoleArn": function.role}, message)
        except Exception as error:
            log.warning("sending to %s failed: %s", arn, error)


def _version(function: LambdaFunction) -> tuple[str, ...]:
    """Returns the properties whose change requires a new process."""
    environment = json.dumps(function.environment_vars, sort_keys=True)
    settings = f"{function.timeout} {function.memory_size} {function.role}"
    return (function.function_arn, function.code_sha_256, environment, settings)


def _async_config(function: LambdaFunction) -> dict[str, Any]:
    backend = lambda_simple_backends[ACCOUNT][REGION]
    try:
        return backend.get_function_event_invoke_config(function.function_name)
    except UnknownEventConfig:
        return {}


def _is_from_state_machine(headers: Mapping[str, str]) -> bool:
    scope = scope_of(headers)
    return scope is not None and session_of(scope[1]) == STATES_SESSION


def install(cloud: Cloud) -> None:
    # Lambda's own delays, one minute and then two, are too long for tests.
    cloud.settings.register(async_retry_seconds=2.0)
    # Idle processes kept for each function. With 0, every call is a cold start.
    cloud.settings.register(idle_processes=24)
    # Step Functions can invoke a function twice, as after a lost answer.
    cloud.settings.register_scopable(deliveries="once")
    functions = Functions(cloud)
    cloud.on_stop(functions.stop)

    def invoke(
        self: LambdaSimpleBackend,
        function_name: str,
        qualifier: str | None,
        body: Any,
        headers: Any,
        response_headers: dict[str, str],
    ) -> bytes:
        function = self.get_function(function_name, qualifier)
        payload = body if isinstance(body, bytes) else (body or "{}").encode()
        if (headers or {}).get("X-Amz-Invocation-Type") == "Event":
            functions.invoke_later(function, payload)
            return b""
        repeated = _is_from_state_machine(headers or {})
        invoke_ = functions.invoke_as_asked if repeated else functions.invoke
        result = invoke_(function, payload)
        response_headers["x-amz-executed-version"] = "$LATEST"
        response_headers["x-amz-log-result"] = base64.b64encode(result.log_tail).decode()
        if result.function_error:
            response_headers["x-amz-function-error"] = result.function_error
        return result.payload

    patch(
        LambdaSimpleBackend,
        "invoke",
        invoke,
        reason="Runs the function's bootstrap; moto returns a fixed answer.",
        link=api("lambda", "Invoke"),
    )
    _keep_what_terraform_reads_back()


def _keep_what_terraform_reads_back() -> None:
    """Keeps settings that moto drops, so that Terraform does not plan a change at every run."""
    init = LambdaFunction.__init__
    update = LambdaFunction.update_configuration
    configuration = LambdaFunction.get_configuration

    def remember(function: LambdaFunction, spec: dict[str, Any]) -> None:
        if "LoggingConfig" in spec:
            group = f"/aws/lambda/{function.function_name}"
            function.logging_config = {"LogGroup": group, **spec["LoggingConfig"]}
            function.logs_group_name = function.logging_config["LogGroup"]
        if "DeadLetterConfig" in spec:
            function.dead_letter_arn = spec["DeadLetterConfig"].get("TargetArn") or None
        if "TracingConfig" in spec:
            function.tracing_config = spec["TracingConfig"]

    def new_init(self: LambdaFunction, account_id: str, spec: dict[str, Any], **more: Any) -> None:
        init(self, account_id, spec, **more)
        remember(self, spec)

    def new_update(self: LambdaFunction, changes: dict[str, Any]) -> dict[str, Any]:
        remember(self, changes)
        return update(self, changes)

    def new_configuration(self: LambdaFunction, *args: Any, **kwargs: Any) -> dict[str, Any]:
        answer = configuration(self, *args, **kwargs)
        default = {"LogFormat": "Text", "LogGroup": self.logs_group_name}
        answer["LoggingConfig"] = getattr(self, "logging_config", default)
        if arn := getattr(self, "dead_letter_arn", None):
            answer["DeadLetterConfig"] = {"TargetArn": arn}
        return answer

    patch(
        LambdaFunction,
        "__init__",
        new_init,
        reason="Keeps logging, dead-letter and tracing settings, which Terraform reads back.",
        link=api("lambda", "CreateFunction"),
    )
    patch(
        LambdaFunction,
        "update_configuration",
        new_update,
        reason="Keeps logging, dead-letter and tracing settings, which Terraform reads back.",
        link=api("lambda", "UpdateFunctionConfiguration"),
    )
    patch(
        LambdaFunction,
        "get_configuration",
        new_configuration,
        reason="Returns logging and dead-letter settings, which Terraform reads back.",
        link=api("lambda", "GetFunctionConfiguration"),
    )
