"""The live report of a training run, served on localhost only; the page is updated when metrics.jsonl changes."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from algorithms.common.report.live_state import run_state
from algorithms.common.report.run_report import MAKE, REPORT, run_report
from algorithms.common.run.saved_run import SavedRun, read_run
from igsearch_env.errors import ConfigurationError
from retrievers.base import QueryError
from retrievers.service.admission import Admission
from retrievers.service.connections import bind, make_server

HOST = "127.0.0.1"
MAX_CONNECTIONS = 32  # a browser opens six
WATCHED = ("config.yaml", "metrics.jsonl", "test_before.json", "test_after.json", "transcripts", "trajectories")
STYLE = """
#live { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; align-items: center; }
#live button { font: inherit; min-height: 1.75rem; }
#live-state::before { content: "\\25cf\\a0"; color: var(--quiet); }
#live:is([data-state="running"], [data-state="finished"]) #live-state::before { color: var(--good); }
#live:is([data-state="silent"], [data-state="interrupted"], [data-state="lost"]) { --quiet: var(--bad); }
#live:is([data-state="silent"], [data-state="interrupted"], [data-state="lost"]) #live-age { color: inherit; }
#live-age { color: var(--quiet); font-variant-numeric: tabular-nums; }
"""
BAR = (
    '<div id="live"><span id="live-state" role="status">Connecting</span><span id="live-age"></span>'
    '<button type="button" id="live-pause" aria-pressed="false">Pause</button></div>'
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",  # the rest stands in the page
    "referrer-policy": "no-referrer",  # its address is a secret
    "x-content-type-options": "nosniff",
}


class LiveServer:
    """Serves the report and the other pages of a run folder; each is rebuilt when its files have changed.

    Other users of this machine can reach the port as well, so its address contains a random token. `port` 0 selects a
    free port. Raises `ConfigurationError` if the folder is not a run or the port can't be opened.
    """

    def __init__(self, run_dir: Path, port: int) -> None:
        read_run(run_dir)
        self.run_dir = run_dir
        self.token = secrets.token_urlsafe(16)
        self._made: dict[str, tuple[str, Any]] = {}  # page: version, document; "run": version, what the state needs
        self._lock = threading.Lock()
        try:
            self._listener = bind(HOST, port)
        except QueryError as error:
            raise ConfigurationError(
                f"--port {port} on {HOST} can't be opened ({error}); give another one, or 0 for any free port"
            ) from error
        self._listener.listen()
        self.server_port = int(self._listener.getsockname()[1])
        app = Starlette(routes=[Route("/{token}/{page:path}", self._answer)])
        app.router.redirect_slashes = False
        app.add_middleware(Admission)
        self._server = make_server(app, MAX_CONNECTIONS)
        self._ended = threading.Event()

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        """Address of the report."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def serve_forever(self) -> None:
        """Serve until `shutdown` or Ctrl-C."""
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._ended.set()

    def shutdown(self) -> None:
        """End `serve_forever`, which runs in another thread."""
        self._server.should_exit = True
        self._ended.wait()

    def version(self) -> str:
        """A string that changes whenever a file of the report changes."""
        return " ".join(_state(self.run_dir / name) for name in WATCHED)

    def state(self) -> dict[str, Any]:
        """What the run is doing (`RunState`), and the version of the report."""
        version = self.version()
        run: SavedRun = self._current("run", version, lambda: read_run(self.run_dir))
        return {"version": version, **asdict(run_state(run))}

    def report(self) -> str:
        """The report of the current version."""
        version = self.version()
        script = files("algorithms.common.report").joinpath("live.js").read_text(encoding="utf-8")
        made: str = self._current(
            "report", version, lambda: run_report(self.run_dir, bar=BAR, style=STYLE, script=script, version=version)
        )
        return made

    def recorded(self, page: str) -> str | None:
        """A page of what the run has recorded so far (`MAKE`); None if there is nothing for it."""
        made: str | None = self._current(page, _state(self.run_dir / "trajectories"), lambda: MAKE[page](self.run_dir))
        return made

    def _current(self, page: str, version: str, make: Callable[[], Any]) -> Any:
        with self._lock:  # requests are answered by several threads; a page is made once
            if self._made.get(page, ("", None))[0] != version:
                self._made[page] = (version, make())
            return self._made[page][1]

    def _answer(self, request: Request) -> Response:
        """The report, the state of the run or another page of it; no other file of the machine."""
        if not secrets.compare_digest(request.path_params["token"].encode(), self.token.encode()):
            return _response(404, "not found: open the address that the program printed")
        page = request.path_params["page"]
        if page not in ("", REPORT, "state", *MAKE):
            return _response(404, "not found")
        try:
            if page == "state":
                return _response(200, json.dumps(self.state()), "application/json")
            document = self.recorded(page) if page in MAKE else self.report()
        except ConfigurationError as error:
            return _response(503, str(error))
        if document is None:
            return _response(404, "nothing has been recorded for this page yet")
        return _response(200, document, "text/html")


def _response(status: int, text: str, kind: str = "text/plain") -> Response:
    content = text.encode(errors="replace")  # names of folders may not be valid Unicode
    return Response(content, status, HEADERS, media_type=f"{kind}; charset=utf-8")


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "none"
    return f"{found.st_size}-{found.st_mtime_ns}"
