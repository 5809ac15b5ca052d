"""A retrieval service over HTTP, in Search-R1's format:

    igsearch serve --corpus corpus.jsonl
    igsearch serve --corpus indexes/minilm --rerank cross-encoder/ms-marco-MiniLM-L6-v2 --port 8001

    POST /retrieve  {"queries": ["..."], "topk": 3, "return_scores": true}, or one string as "query"
    POST /sample    {"n": 3, "seed": 7}: random passages, determined by the seed
    GET  /health    {"status": "ok", "passages": 2984, "fingerprint": {...}}
    GET  /metrics   for Prometheus

A request may have thousands of queries, as those of Search-R1's trainer have: it is searched in parts, and requests of
other clients are searched between the parts.

Errors are {"detail": "..."}: 400 not JSON, 403 an unknown Host, 413 more than --max-results, --max-body-bytes or
--max-response-bytes, 415 a Content-Type other than application/json, 422 an invalid value, 429 too many waiting queries
(with Retry-After), 503 the search failed, 500 a bug. Connections whose request is incomplete are closed after a time.
SIGTERM and SIGINT: running requests are completed within 25 seconds, incomplete ones dropped, then it exits.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from retrievers.credentials import MaskedRepr
from retrievers.extras import require
from retrievers.log_lines import show_log_lines
from retrievers.open import open_retriever
from retrievers.processors import let_waiting_threads_sleep
from retrievers.program import ends_in_one_line
from retrievers.service.limits import Limits


@dataclass(frozen=True)
class Args(MaskedRepr):
    """Options of the service."""

    corpus: str
    """Corpus file (.jsonl, .jsonl.gz) or index folder."""
    retriever: str = "auto"
    """`auto`, `bm25`, an index folder, an address; several joined by `+` are fused."""
    rerank: str = ""
    """Cross-encoder that reranks the results; none by default."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all interfaces. There is no authentication."""
    port: int = 8000
    """Port; 0 for any free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients address it, besides localhost, the name of this machine, `host` and IP addresses."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    """Limits on requests and queues."""


def serve(args: Args) -> None:
    """Open the retriever and serve until a signal ends it."""
    let_waiting_threads_sleep()
    show_log_lines()
    for module in ("uvicorn", "fastapi", "prometheus_client"):
        require(module, "the retrieval service")
    from retrievers.service.connections import bind, make_server
    from retrievers.service.endpoints import make_app

    with bind(args.host, args.port) as listener:  # before the index is opened, which may take minutes
        retriever = open_retriever(args.corpus, args.retriever, args.rerank)
        try:
            app = make_app(retriever, args.limits, (args.host, *args.allowed_hosts))
            server = make_server(app, args.limits.max_connections)
            for number in (signal.SIGTERM, signal.SIGINT):
                # uvicorn raises the signal again after its shutdown; this handler then has no effect.
                signal.signal(number, lambda *_: setattr(server, "should_exit", True))
            listener.listen(server.config.backlog)
            host = f"[{args.host}]" if ":" in args.host else args.host
            print(f"serving {len(retriever)} passages on http://{host}:{listener.getsockname()[1]}", flush=True)
            server.run(sockets=[listener])
        finally:
            retriever.close()


def command() -> None:
    """Run the service from the command line."""
    with ends_in_one_line(OSError, ValueError):
        serve(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command()
