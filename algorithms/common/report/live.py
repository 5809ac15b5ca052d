"""The live report of a training run, served on localhost only; the page is updated when metrics.jsonl changes."""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

from algorithms.common.report.run_report import recorded_page, run_report
from algorithms.common.run.saved_run import read_run
from igsearch_env.errors import ConfigurationError

HOST = "127.0.0.1"
WATCHED = ("config.yaml", "metrics.jsonl", "test_before.json", "test_after.json", "transcripts", "trajectories")
BAR = (
    "<style>#live { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; } "
    "#live button { font: inherit; min-height: 1.75rem; }</style>"
    '<div id="live"><span id="live-state">Live: waiting for updates</span>'
    '<button type="button" id="live-pause" aria-pressed="false">Pause</button></div>'
)


class LiveServer(ThreadingHTTPServer):
    """Serves the report and the trajectory page of a run folder; each is rebuilt when its files have changed.

    `port` 0 selects a free port. Raises `ConfigurationError` if the folder is not a run or the port can't be opened.
    """

    daemon_threads = True

    def __init__(self, run_dir: Path, port: int) -> None:
        read_run(run_dir)
        self.run_dir = run_dir
        self.made: tuple[str, str] = ("", "")
        self.recorded: tuple[str, str | None] = ("", None)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"--port {port} on {HOST} can't be opened ({error}); give another one, or 0 for any free port"
            ) from error

    @property
    def url(self) -> str:
        """Address of the report."""
        return f"http://{HOST}:{self.server_port}/"

    def version(self) -> str:
        """A string that changes whenever a file of the report changes."""
        return " ".join(_state(self.run_dir / name) for name in WATCHED)

    def report(self) -> str:
        """The report of the current version."""
        version, document = self.made
        now = self.version()
        if now != version:
            script = files("algorithms.common.report").joinpath("live.js").read_text(encoding="utf-8")
            document = run_report(self.run_dir, bar=BAR, script=script, version=now)
            self.made = (now, document)
        return document

    def trajectories(self) -> str | None:
        """The page of the trajectories recorded so far; None if there are none."""
        version, document = self.recorded
        now = _state(self.run_dir / "trajectories")
        if now != version:
            document = recorded_page(self.run_dir)
            self.recorded = (now, document)
        return document


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "none"
    return f"{found.st_size}-{found.st_mtime_ns}"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        """Serve the report, its version or the trajectory page; no other file of the machine."""
        # Protects against DNS rebinding: a page of another host name must not read the run.
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            self._answer(HTTPStatus.FORBIDDEN, f"use {self.server.url}")
        elif self.path == "/version":
            self._answer(HTTPStatus.OK, self.server.version())
        elif make := {"/": self.server.report, "/trajectories.html": self.server.trajectories}.get(self.path):
            try:
                document = make()
            except ConfigurationError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
                return
            if document is None:
                self._answer(HTTPStatus.NOT_FOUND, "no trajectories have been recorded yet")
            else:
                self._answer(HTTPStatus.OK, document, "text/html")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "not found")

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        content = text.encode(errors="replace")  # names of folders may not be valid Unicode
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the page polls the server every few seconds."""
