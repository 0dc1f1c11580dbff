"""A session that outlives its connections.

A Session knows server, user and password.  It gives out a connection that is logged in, makes a
new one when the old one is gone, and repeats what was interrupted: `run` with its pauses.

What is repeated
  - Everything that may be done twice with the same effect (puts, gets, lists).
  - Everything, after the server said that it leaves (it had not carried it out), or when no
    connection could be made at all.
  - Nothing else: whether a move happened cannot be known once its connection broke.
The very first connection is not tried again when it cannot be made: then the address is wrong, or
the server is down, and somebody should hear of it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from forkd import __version__
from forkd.client.answers import Login, Welcome, decode
from forkd.client.connection import Connection
from forkd.client.defaults import STALL
from forkd.client.dialing import connect
from forkd.client.errors import AuthError, ClientError, LostError, RemoteError, UrlError
from forkd.client.events import Event, Listener, Note, nobody
from forkd.client.retry import Backoff, RetryPolicy
from forkd.client.url import Url
from forkd.verbs import Auth

if TYPE_CHECKING:
    from forkd.client.trust import Trust

AGENT = f"forkc {__version__}"
_PASSING = frozenset({"busy", "too-many", "timeout", "going-away"})
_OTHERS_REPEATED = 2
Password = str | Callable[[Url], str]
T = TypeVar("T")


class StoppedError(ClientError):
    """Somebody ended the session from another thread."""


class Settings(Struct, frozen=True):
    """How a session behaves.

    `trust`: who is believed to be the server; None is trust on first use, with the user's own
    pins, and `listener` hears of new ones.  `stall`: the longest silence in seconds while an answer
    is due.
    """

    trust: Trust | None = None
    retry: RetryPolicy = RetryPolicy()
    stall: float = STALL
    listener: Listener = nobody


class Session:
    """For one thread; only `stop` is for others.

    `password` may be a function: it is called once, after the server has proved who it is.
    Without a password nobody is logged in.
    """

    def __init__(self, url: Url, password: Password | None, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.welcome: Welcome | None = None
        self.login: Login | None = None
        self._password = password
        self._connection: Connection | None = None
        self._reached = False
        self._stopped = threading.Event()
        self._progress = 0

    def tell(self, event: Event) -> None:
        """Pass an event to the listener."""
        self.settings.listener(event)

    def progressed(self) -> None:
        """Something moved: attempts are counted anew."""
        self._progress += 1

    def connection(self) -> Connection:
        """A connection that is logged in.  Raises LostError, TrustError, RemoteError."""
        current = self._connection
        if current is not None and not current.busy:
            ended = current.look()  # a server ends idle connections, which is not worth a word
            if current.lost or current.leaving:
                self.drop()
            if isinstance(ended, RemoteError):
                self.tell(Note(f"{ended}; logging in again"))
        if self._connection is None:
            self._connection = self._open()
            self._reached = True
        return self._connection

    def run(self, action: Callable[[Connection], T], *, again: bool = True) -> T:
        """Do something with a connection, as often as it takes.  Raises the last error.

        `again`: it may be repeated although it may have been carried out already.
        """
        backoff = Backoff(self.settings.retry)
        while True:
            before = self._progress
            connected = False
            try:
                connection = self.connection()
                connected = True
                return action(connection)
            except ClientError as error:
                self.recover()
                if self._progress != before and isinstance(error, LostError):
                    backoff.progress()
                unsure = isinstance(error, LostError) and error.carried_out
                if connected and unsure and not again:
                    raise LostError(f"{error}; whether it was carried out is not known") from None
                self.pause(backoff, error)
            except BaseException:
                self.drop()
                raise

    def pause(self, backoff: Backoff, error: ClientError) -> None:
        """Wait before the next attempt.  Raises `error` when there is to be none."""
        if self._stopped.is_set():
            raise StoppedError("stopped") from None
        if not error.repeatable or (isinstance(error, LostError) and not self._reached):
            raise error
        passing = isinstance(error, LostError) or (
            isinstance(error, RemoteError) and error.code in _PASSING
        )
        seconds = backoff.pause(None if passing else _OTHERS_REPEATED)
        if seconds is None:
            raise error
        if isinstance(error, LostError) and not error.carried_out and backoff.failed == 1:
            return  # the server's new process waits already
        self.tell(Note(f"{error}; trying again in {seconds:.1f} s"))
        if self._stopped.wait(seconds):
            raise StoppedError("stopped") from None

    def recover(self) -> None:
        """After a failure: keep the connection only if nothing is under way on it."""
        if self._connection is not None and (self._connection.lost or self._connection.busy):
            self.drop()

    def authenticate(self, user: str, password: str) -> Login:
        """Log in, as another user too.  Raises AuthError."""
        self.login = self.run(lambda connection: _log_in(connection, user, password))
        self.url = self.url.as_user(user)
        self._password = password
        return self.login

    def use_password(self, password: str) -> None:
        """Log in with this one from now on."""
        if self._password is not None:
            self._password = password

    def sibling(self) -> Session:
        """A session like this one, with connections of its own."""
        other = Session(self.url, self._password, self.settings)
        other._reached = self._reached
        return other

    def stop(self) -> None:
        """End whatever it does, from another thread; that raises StoppedError or LostError."""
        self._stopped.set()
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def drop(self) -> None:
        """Close the connection; the next use makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> Connection:
        if self._stopped.is_set():
            raise StoppedError("stopped")
        wire = connect(self.url, self.settings.trust, self.settings.stall, self.tell)
        connection = Connection(wire)
        asked = callable(self._password)
        try:
            self.welcome = connection.greet(AGENT)
            if self._password is not None:
                self.login = self._first_login(connection, self._password)
        except BaseException as error:
            connection.close()
            if asked and isinstance(error, LostError) and isinstance(self._password, str):
                return self._open()  # the server did not wait for somebody to type it
            raise
        return connection

    def _first_login(self, connection: Connection, password: Password) -> Login:
        if not self.url.user:
            raise UrlError(f"{self.url} names no user (example: forkd://alice@example.org)")
        self._password = password if isinstance(password, str) else password(self.url)
        try:
            return _log_in(connection, self.url.user, self._password)
        except AuthError:
            self._password = password
            raise


def _log_in(connection: Connection, user: str, password: str) -> Login:
    try:
        call = connection.wait(connection.call(Auth(user=user, password=password)))
    except RemoteError as error:
        if error.code == "auth-failed":
            connection.lost = True  # a fresh one for the next try: the server counts
        raise
    return decode(call.meta, Login)
