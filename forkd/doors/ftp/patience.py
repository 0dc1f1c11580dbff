"""How long an FTP session may be silent between its commands.

Rules
  1. A stranger has one time for all he does; who is logged in has one from each command on.
  2. A port for data is kept open for a minute.
  3. When the worker leaves, who is silent goes at once, who is in the middle of his commands (they
     follow each other, or PASV, REST or RNFR was said and what uses it was not, or he is about to
     log in) may go on with them: nobody is cut between his log-in and his only file, and a client
     that sends file after file is told between two of them.
  4. Who still reads what was sent (lingering.py) is not silent, and is not told meanwhile: lftp
     drops a download that it has not read to its end when it is told 421.
  5. Between a transfer and what belongs to it (MFMT) the farewell never comes: lftp then waits for
     ever.  It comes in place of a port for the next transfer, or after a pause.
"""

from __future__ import annotations

from forkd.config import Limits

_PORT_SECONDS = 60.0
_LEAVING_SECONDS = 10.0
"""For who goes on with his commands when the worker leaves; then he begins no other transfer."""
_CONCLUDING_SECONDS = 10.0
"""From then on, for the commands that follow a transfer: MFMT, SITE CHMOD."""
_PAUSE_SECONDS = 1.0
"""A longer silence than that between two commands is none in the middle of something."""


class Patience:
    """Times are seconds of the monotonic clock."""

    __slots__ = ("_idle_timeout", "_leave_by", "_login_by", "_silent_since")

    def __init__(self, limits: Limits, now: float) -> None:
        self._login_by = now + limits.login_timeout
        self._idle_timeout = float(limits.idle_timeout)
        self._silent_since = 0.0
        """0.0: something was said, and is not answered yet."""
        self._leave_by = 0.0

    def heard(self) -> None:
        """The client said something."""
        self._silent_since = 0.0

    def leave(self, now: float) -> None:
        """The worker leaves."""
        self._leave_by = self._leave_by or now + _LEAVING_SECONDS

    @property
    def is_leaving(self) -> bool:
        return self._leave_by > 0

    def is_over(self, now: float, *, stranger: bool) -> bool:
        """Not even a command that is there already is taken any more: some never pause."""
        if stranger and now >= self._login_by:
            return True
        return self.is_leaving and now >= self._leave_by + _CONCLUDING_SECONDS

    def is_late(self, now: float) -> bool:
        """No other transfer may begin: its first command is answered with the farewell."""
        return self.is_leaving and now >= self._leave_by

    def left(self, now: float, *, stranger: bool, port: bool, amid: bool) -> float:
        """Seconds that may go by without a command from `now` on, when all is answered; at least 0.

        `port`: one is open; `amid`: what was said last is for the next command.
        """
        self._silent_since = self._silent_since or now
        by = self._login_by if stranger else self._silent_since + self._idle_timeout
        if port:
            by = min(by, self._silent_since + _PORT_SECONDS)
        if self.is_leaving:
            pause = self._silent_since + _PAUSE_SECONDS
            by = min(by, max(self._leave_by, pause) if amid else pause)
        return max(0.0, by - now)
