"""One control connection as a state machine: lines in; replies and requests out.

Rules
  1. Commands are taken in the order they came, each is answered once.  What needs no more than
     words is answered here; the rest becomes a request, and no command is taken before the door
     ended it with `finish`.
  2. While a request runs, ABOR and STAT are taken at once.  NOOP is taken too, and answered after
     the request, so that whoever counts replies finds them in order.  Everything else waits.
  3. REST and ALLO hold for the next transfer, RNFR for the command after it.  EPSV ALL holds to
     the end of the session.
  4. What came in clear behind AUTH TLS is never taken: the session is over then.
  5. AUTH and REIN log out.

    greeting -> strangers' commands -> USER -> PASS -> (LogIn) -> all commands
                     ^                                              |
                     +------------ REIN, AUTH, USER again ----------+
"""

from __future__ import annotations

from forkd.ftp import arguments, commands, requests
from forkd.ftp.arguments import Command
from forkd.ftp.handlers import HANDLERS
from forkd.ftp.lines import Lines, Overlong
from forkd.ftp.paths import Parts, show
from forkd.ftp.replies import Negative, multiline, quoted, reply
from forkd.ftp.requests import Request
from forkd.ftp.state import Policy, State

_NOOPS_MAX = 1000
"""NOOPs during one transfer."""
OUT_MAX = 16 * 1024
"""Bytes of replies after which no command is taken before some were sent."""


class Conversation:
    """See the module.  Take requests with `next_request`, replies with `take_output`."""

    __slots__ = ("_held", "_lines", "_noops", "_out", "_said", "busy", "policy", "state")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state = State()
        self.busy = False
        """A request is with the door."""
        self._lines = Lines()
        self._out: list[bytes] = []
        self._said = 0
        self._held: bytes | Overlong | None = None
        self._noops = 0

    # bytes in, bytes out

    @property
    def full(self) -> bool:
        """Enough came for the moment: read no more before lines were taken."""
        return self._lines.full

    @property
    def has_commands(self) -> bool:
        """Something was said that is not taken yet."""
        return self._held is not None or bool(self._lines.buffered)

    @property
    def is_amid(self) -> bool:
        """What was said last is for the next command: RNFR, REST, ALLO."""
        state = self.state
        announced = state.allocated is not None or bool(state.restart)
        return announced or state.rename_from is not None

    def receive(self, data: bytes | memoryview) -> None:
        self._lines.receive(data)

    def take_output(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        self._said = 0
        return out

    @property
    def crowded(self) -> bool:
        """No command is taken before the output was."""
        return self._said >= OUT_MAX

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    def say(self, code: int, text: str | bytes) -> None:
        self.say_raw(reply(code, text))

    def say_lines(self, code: int, first: str, between: list[str | bytes], last: str) -> None:
        self.say_raw(multiline(code, first, between, last))

    def say_raw(self, lines: bytes) -> None:
        """Lines of a long reply that the door makes itself."""
        self._out.append(lines)
        self._said += len(lines)

    # what the door tells

    def greet(self, session: str) -> None:
        """`session` is the id that the server's log knows this connection by."""
        self.say(220, f"{self.policy.greeting} Session {session}.")

    def finish(self, code: int = 0, text: str | bytes = "") -> None:
        """The request is answered: with this, or with what was said already where `code` is 0."""
        if code:
            self.say(code, text)
        for _ in range(self._noops):
            self.say(200, "NOOP ok.")
        self._noops = 0
        self.busy = False

    def entered(self, user: str) -> None:
        """The log-in succeeded."""
        self.state.logged_in, self.state.user = True, user
        self.finish(230, "Logged in.")

    def secured(self) -> None:
        """The handshake of the control connection is done."""
        self.state.secure = True
        self.finish()

    def moved_to(self, folder: Parts) -> None:
        """CWD, CDUP: the folder exists."""
        self.state.here = folder
        self.finish(250, b"Now in " + quoted(show(folder)) + b".")

    def renaming(self, path: Parts) -> None:
        """RNFR: there is something of this name."""
        self.state.rename_from = path
        self.finish(350, "RNTO tells its new name.")

    @property
    def protects_data(self) -> bool:
        """Data connections are to be under TLS."""
        return bool(self.state.protected_data)

    def imply_protection(self) -> None:
        """Implicit TLS: data is protected unless PROT C says otherwise."""
        self.state.secure = True
        self.state.protected_data = True

    # lines to requests

    def next_request(self) -> Request | None:
        """The next one that may be taken now; None when there is none.

        Raises ProtocolAbuse.
        """
        while self.has_commands and not self.crowded:
            line = self._held if self._held is not None else self._lines.next()
            self._held = None
            if line is None:
                return None
            try:
                if isinstance(line, Overlong):
                    raise Negative(500, "the line is too long")
                command = commands.parse(line)
            except Negative as negative:
                if self.busy:
                    self._held = line
                    return None
                self.say(negative.code, negative.text)
                continue
            if self.busy:
                request, taken = self._meanwhile(command)
                if not taken:
                    self._held = line
            else:
                request, taken = self._take(command), True
            if request is not None or not taken:
                return request
        return None

    def _meanwhile(self, command: Command) -> tuple[Request | None, bool]:
        """What may be said while a request runs."""
        if command.verb == "NOOP" and self._noops < _NOOPS_MAX:
            self._noops += 1
            return None, True
        if command.verb == "ABOR":
            return requests.Abort(), True
        if isinstance(command, arguments.WithPath) and command.verb == "STAT" and not command.path:
            return requests.Status(), True
        return None, False

    def _take(self, command: Command) -> Request | None:
        try:
            if not self.state.logged_in and not commands.is_for_strangers(_row(command.verb)):
                raise Negative(530, "log in with USER and PASS")
            if command.verb != "RNTO":
                self.state.rename_from = None
            request = HANDLERS[command.verb](self, command)
        except Negative as negative:
            self.say(negative.code, negative.text)
            return None
        if request is not None:
            self.busy = not isinstance(request, requests.Abort | requests.Status | requests.Leave)
        return request


def _row(verb: str) -> str:
    """SITE CHMOD stands in the row of SITE."""
    return verb.partition(" ")[0]
