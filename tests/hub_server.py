"""The part of the Hugging Face Hub's HTTP interface that an upload uses, as a server on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories by name: whether they are private, and the files of their commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.tokens = {"hf_write"}
        self.hangs = threading.Event()
        self.hangs.set()  # cleared: no request is answered
        self.seen: Callable[[str], None] = lambda path: None

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Requests(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self.path.removeprefix("/api/models/"), b"")

    def do_POST(self) -> None:
        self._answer(self.path, self.rfile.read(int(self.headers.get("content-length", 0))))

    def _answer(self, path: str, body: bytes) -> None:
        hub = self.server
        hub.hangs.wait()
        hub.seen(path)
        if self.headers.get("authorization", "").removeprefix("Bearer ") not in hub.tokens:
            self._send(403, {"error": "Forbidden: you don't have the rights to write here."})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            status = 409 if name in hub.private else 200
            hub.private.setdefault(name, bool(asked.get("private") or asked.get("visibility") == "private"))
            self._send(status, {"url": f"{hub.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":  # of a README.md
            self._send(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            answer = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._send(200, {"files": answer})
        elif path.endswith("/commit/main"):
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            rows = [json.loads(line)["value"] for line in body.splitlines()]
            kept = hub.files.setdefault(name, {})
            kept |= {row["path"]: base64.b64decode(row["content"]) for row in rows if "content" in row}
            self._send(200, {"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": "1", "success": True})
        elif path.partition("?")[0] in hub.private:
            name = path.partition("?")[0]
            self._send(200, {"id": name, "modelId": name, "private": hub.private[name], "siblings": [], "tags": []})
        else:
            self._send(404, {"error": "Repository not found"})

    def _send(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub without repositories."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.hangs.set()
        hub.shutdown()
        hub.server_close()
        thread.join()
