"""A relay with TLS in front of a registry, to simulate failures.

It forwards whole requests and answers, so that a failure can affect selected
repositories and occur in the middle of a layer.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PATH = re.compile(r"/v2/(?P<repository>.+?)/(?P<kind>blobs|manifests|tags|referrers)/")
_CHUNK = 256 * 1024
# Headers for one connection only: https://www.rfc-editor.org/rfc/rfc9110#name-connection
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


class Limits:
    """Remaining bytes of blobs, by pattern of repositories."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()

    def set(self, repositories: str, blob_bytes: int | None) -> None:
        with self._lock:
            self._left.pop(repositories, None)
            if blob_bytes is not None:
                self._left[repositories] = blob_bytes

    def clear(self) -> None:
        with self._lock:
            self._left.clear()

    def all(self) -> dict[str, int]:
        with self._lock:
            return dict(self._left)

    def take(self, repository: str, wanted: int) -> int:
        """Returns the number of requested bytes that can pass, and counts them."""
        with self._lock:
            concerned = [p for p in self._left if fnmatchcase(repository, p)]
            allowed = min([wanted, *(self._left[p] for p in concerned)])
            for pattern in concerned:
                self._left[pattern] -= allowed
            return allowed

    def has_failed(self, repository: str) -> bool:
        with self._lock:
            return any(
                left <= 0
                for pattern, left in self._left.items()
                if fnmatchcase(repository, pattern)
            )


class Relay(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, behind: int, certificate: Path, limits: Limits) -> None:
        """Listens at `port` and forwards to the registry at `behind`."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.behind = behind
        self.limits = limits
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        # The connection's own thread does the handshake, so that others do not wait.
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a broken connection; its client reports it."""


class _Handler(BaseHTTPRequestHandler):
    server: Relay
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _relay(self) -> None:
        found = _PATH.match(self.path)
        repository = found["repository"] if found else ""
        if self.server.limits.has_failed(repository):
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            self._send_on(upstream)
            is_blob = self.command == "GET" and found is not None and found["kind"] == "blobs"
            self._send_back(upstream.getresponse(), repository if is_blob else None)
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _relay

    def _send_on(self, upstream: http.client.HTTPConnection) -> None:
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                upstream.putheader(name, value)
        is_chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        if is_chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders(
            self._chunks() if is_chunked else self._body(), encode_chunked=is_chunked
        )

    def _body(self) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0 and (data := self.rfile.read(min(left, _CHUNK))):
            left -= len(data)
            yield data

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send_back(self, answer: http.client.HTTPResponse, blob_of: str | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        has_no_body = self.command == "HEAD" or answer.status in (204, 304)
        if answer.getheader("Content-Length") is None and not has_no_body:
            # Its end is then the connection's.
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while data := answer.read(_CHUNK):
            allowed = len(data) if blob_of is None else self.server.limits.take(blob_of, len(data))
            self.wfile.write(data[:allowed])
            if allowed < len(data):
                self.close_connection = True
                return

    def log_message(self, *_: Any) -> None:
        pass
