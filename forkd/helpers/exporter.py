"""The helper process that serves /metrics, /healthz and /readyz over HTTP.

Rules
  1. It only reads the scoreboard and the ledger; nothing a scraper sends changes anything.
  2. At most MAX_REQUESTS are served at a time, none for longer than REQUEST_SECONDS: scrapers that
     stall cannot pile up.
  3. A successor takes over the listening socket (handover.py): a reload refuses no scrape.
  4. The answer is in the text format whatever is asked for: in OpenMetrics the names of the gauge
     `forkd_sessions` and of the counter `forkd_sessions_total` would clash.
"""

from __future__ import annotations

import os
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from forkd.childlink import ChildLink
from forkd.errors import StartError
from forkd.helpers.handover import Offer, open_listener
from forkd.helpers.metrics import BoardCollector
from forkd.ledger.file import AccountCell, LedgerFile
from forkd.limits.file import LimitsFile, limits_path
from forkd.link import Link
from forkd.listen import parse_listen
from forkd.log import Log, open_log
from forkd.messages import Drain, Ready, SetLogLevel
from forkd.scoreboard import State
from forkd.seat import ChildSeat
from forkd.title import set_title

MAX_REQUESTS = 8
REQUEST_SECONDS = 10.0


def main(seat: ChildSeat) -> int:
    """Serve until the master says `Drain` or is gone.  Raises StartError."""
    log = open_log(seat.config.log, process="exporter")
    path = os.path.join(seat.config.server.runtime_dir, "exporter.sock")
    listener = _listener(seat.config.metrics.listen, path)
    offer = Offer.make(path)
    server = MetricsServer(listener, Pages(seat, log), log)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    set_title("exporter")
    link = ChildLink(seat.link, log)
    link.send(Ready())
    _watch(link, offer, listener, log)
    server.shutdown()
    server.server_close()
    offer.withdraw()
    server.wait_until_idle(REQUEST_SECONDS)
    return 0


def _listener(text: str, path: str) -> socket.socket:
    try:
        return open_listener(parse_listen(text), path)
    except (StartError, ValueError) as error:
        raise StartError(f"metrics.listen: {error}") from None


def _watch(link: Link, offer: Offer, listener: socket.socket, log: Log) -> None:
    """Hand the listener to who asks for it, until it is time to leave."""
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(offer.listener, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if offer.listener.fileno() in ready:
            offer.answer(listener)
        told = link.receive()
        for message in told:
            if isinstance(message, SetLogLevel):
                log.set_level(message.level)
        if link.eof or link.fault or any(isinstance(message, Drain) for message in told):
            return


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: HTTP status, body, its type."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"


class Pages:
    """What is served, by path."""

    def __init__(self, seat: ChildSeat, log: Log) -> None:
        self._board = seat.board
        self._link = seat.link
        self._ledger = os.path.join(seat.config.server.state_dir, "ledger")
        self._limits = limits_path(seat.config)
        self._registry = CollectorRegistry()
        self._registry.register(
            BoardCollector(
                seat.board, self._accounts, self._bans, seat.config.metrics.top_users, log
            )
        )
        self._by_path: dict[str, Callable[[], Page]] = {
            "/metrics": self.metrics,
            "/healthz": self.health,
            "/readyz": self.readiness,
        }

    def get(self, path: str) -> Page:
        """The page at a path; a query is ignored."""
        page = self._by_path.get(path.partition("?")[0])
        if page is None:
            return Page(404, b"here are /metrics, /healthz and /readyz\n")
        return page()

    def metrics(self) -> Page:
        return Page(200, generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)

    def health(self) -> Page:
        """200 while the master lives."""
        try:
            gone = self._link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        return Page(503, b"the master is gone\n") if gone else Page(200, b"ok\n")

    def readiness(self) -> Page:
        """200 while at least one worker takes sessions, else why none does."""
        states = [seat.state for seat in self._board.seats()]
        if State.SERVING in states:
            return Page(200, b"ok\n")
        if not states:
            return Page(503, b"no worker runs\n")
        counts = ", ".join(
            f"{states.count(state)} {state.name.lower()}" for state in State if state in states
        )
        return Page(503, f"no worker serves: {counts}\n".encode())

    def _accounts(self) -> Iterable[AccountCell]:
        # opened anew each time: the master may have let it grow, and nothing of it is kept
        ledger = LedgerFile(self._ledger)
        try:
            return list(ledger.accounts())
        finally:
            ledger.close()

    def _bans(self) -> int:
        limits = LimitsFile(self._limits)
        try:
            return limits.bans_in_force(time.monotonic_ns())
        finally:
            limits.close()


class MetricsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each request, few at a time, each with a deadline.  Owns `listener`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, pages: Pages, log: Log) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.pages = pages
        self.log = log
        self._deadlines: dict[object, float] = {}
        self._changed = threading.Condition()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Begin to serve, or refuse at once where too many are being served."""
        with self._changed:
            full = len(self._deadlines) >= MAX_REQUESTS
            if not full:
                self._deadlines[request] = time.monotonic() + REQUEST_SECONDS
        if not full:
            super().process_request(request, client_address)
            return
        try:
            request.send(_BUSY, socket.MSG_DONTWAIT)
        except OSError:
            pass
        self.shutdown_request(request)

    def service_actions(self) -> None:
        """Cut what has passed its deadline; the base class calls this twice a second."""
        now = time.monotonic()
        with self._changed:
            for request, deadline in self._deadlines.items():
                if now > deadline and isinstance(request, socket.socket):
                    _cut(request)

    def close_request(self, request: object) -> None:
        with self._changed:
            self._deadlines.pop(request, None)
            self._changed.notify_all()
        if isinstance(request, socket.socket):
            request.close()

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until the requests under way are answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._deadlines, seconds)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        self.log.debug("scrape-broken-off", address=str(client_address))


_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        page = self._page()
        self.send_response(page.status)
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - http.server calls it so

    def _page(self) -> Page:
        assert isinstance(self.server, MetricsServer)
        try:
            return self.server.pages.get(self.path)
        except Exception as error:
            self.server.log.unexpected("page-failed", error, path=self.path)
            return Page(500, b"internal error; see the log\n")

    def version_string(self) -> str:
        return "forkd"

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not logged."""
