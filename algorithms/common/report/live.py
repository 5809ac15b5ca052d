"""The report of a run while it trains, served on this machine alone; the page follows metrics.jsonl."""

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
    '<div id="live"><span id="live-state">Live: watching</span>'
    '<button type="button" id="live-pause" aria-pressed="false">Pause</button></div>'
)


class LiveServer(ThreadingHTTPServer):
    """Serves the report of a run folder and its trajectory page, each made anew when what it shows has changed.

    `port` 0 takes a free one. Raises `ConfigurationError` if the folder is no run or the port can't be had.
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
                f"--port {port} on {HOST} can't be had ({error}); give another one, or 0 for any that is free"
            ) from error

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_port}/"

    def version(self) -> str:
        """Changes whenever a file that the report is made of does."""
        return " ".join(_state(self.run_dir / name) for name in WATCHED)

    def report(self) -> str:
        """The page of the present version."""
        version, document = self.made
        now = self.version()
        if now != version:
            script = files("algorithms.common.report").joinpath("live.js").read_text(encoding="utf-8")
            document = run_report(self.run_dir, bar=BAR, script=script, version=now)
            self.made = (now, document)
        return document

    def trajectories(self) -> str | None:
        """The trajectory page of what has been recorded until now; None of nothing."""
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
        """The page, its version, or the page of recorded episodes; nothing else of the machine."""
        # A page of elsewhere whose name was pointed at this address must not read the run.
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            self._answer(HTTPStatus.FORBIDDEN, f"ask for {self.server.url}")
        elif self.path == "/version":
            self._answer(HTTPStatus.OK, self.server.version())
        elif make := {"/": self.server.report, "/trajectories.html": self.server.trajectories}.get(self.path):
            try:
                document = make()
            except ConfigurationError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
                return
            if document is None:
                self._answer(HTTPStatus.NOT_FOUND, "nothing is recorded yet")
            else:
                self._answer(HTTPStatus.OK, document, "text/html")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "not here")

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        content = text.encode(errors="replace")  # names of folders may be no Unicode
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """A line for each look of the page would bury the console."""
