"""A running cloud, and small helpers for its clients."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ROLE = "arn:aws:iam::123456789012:role/test"


def trust(service: str) -> str:
    """Returns a trust policy for a service."""
    statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": f"{service}.amazonaws.com"},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


# Fails with a typed error as often as the input says, then answers {"attempt": n};
# counts its invocations, as a warm process can.
COUNTING = """#!/usr/bin/env python3
import json, os, urllib.request
api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
attempt = 0
while True:
    with urllib.request.urlopen(f"{api}/next") as answer:
        request_id = answer.headers["Lambda-Runtime-Aws-Request-Id"]
        event = json.load(answer)
    attempt += 1
    if attempt <= event.get("failures", 0):
        end, body = "error", {"errorType": event["error"], "errorMessage": f"attempt {attempt}"}
    else:
        end, body = "response", {"attempt": attempt, "event": event}
    data = json.dumps(body).encode()
    urllib.request.urlopen(f"{api}/{request_id}/{end}", data=data).read()
"""

# Makes the SSM calls of its input, and answers with the result of each:
# a status, or the name of the exception.
CALLING = """#!/usr/bin/env python3
import json, os, time, urllib.error, urllib.request
api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
def call(action, body):
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"AmazonSSM.{action}",
        "Host": "ssm.eu-west-1.amazonaws.com",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/"
        "20260101/eu-west-1/ssm/aws4_request, SignedHeaders=host, Signature=0",
    }
    request = urllib.request.Request(
        os.environ["AWS_ENDPOINT_URL"], data=json.dumps(body).encode(), headers=headers
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError as error:
        return type(error).__name__
while True:
    with urllib.request.urlopen(f"{api}/next") as answer:
        request_id = answer.headers["Lambda-Runtime-Aws-Request-Id"]
        event = json.load(answer)
    ends = [call(action, body) for action, body in event["calls"]]
    data = json.dumps(ends).encode()
    urllib.request.urlopen(f"{api}/{request_id}/response", data=data).read()
"""


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class RunningCloud:
    port: int
    ready: dict[str, Any]
    process: subprocess.Popen[str]

    def aws(self, service: str, region: str = "eu-west-1", **config: Any) -> Any:
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="operator",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def control(self, method: str, route: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/localcloud/{route}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return {"status": error.code, **json.load(error)}

    def deploy(
        self, name: str, bootstrap: str, timeout: int = 10, role: str = ROLE, **more: Any
    ) -> str:
        """Creates a function from the text of its `bootstrap`; returns its ARN."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as writer:
            writer.writestr("bootstrap", bootstrap)
        created = self.aws("lambda").create_function(
            FunctionName=name,
            Runtime="provided.al2023",
            Handler="bootstrap",
            Role=role,
            Code={"ZipFile": archive.getvalue()},
            Timeout=timeout,
            **more,
        )
        return created["FunctionArn"]

    def queue(self, name: str) -> tuple[str, str]:
        """Creates a queue; returns its URL and its ARN."""
        sqs = self.aws("sqs")
        url = sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return url, attributes["Attributes"]["QueueArn"]

    def receive(self, queue_url: str, seconds: float = 10) -> Any:
        """Returns the next message of a queue, as JSON."""

        def message() -> Any:
            got = self.aws("sqs").receive_message(QueueUrl=queue_url).get("Messages")
            return got and json.loads(got[0]["Body"])

        return until(message, seconds)


def until(question: Callable[[], Any], seconds: float = 10) -> Any:
    """Polls until the answer is true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_cloud(state: Path, **environment: str) -> RunningCloud:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "localcloud", "--port", str(port), "--state", str(state)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return RunningCloud(port, json.loads(process.stdout.readline())["ready"], process)


def stop_cloud(cloud: RunningCloud) -> int:
    cloud.process.send_signal(signal.SIGTERM)
    return cloud.process.wait(30)
