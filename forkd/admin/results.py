"""What forkctl prints as JSON beside the daemon's own reports.py; the same rules hold."""

from __future__ import annotations

from msgspec import Struct

from forkd import reports
from forkd.messages import SessionInfo


class _Result(Struct, frozen=True, kw_only=True):
    pass


class Session(SessionInfo, frozen=True, kw_only=True):
    """A session, with the rates of its content in and out; null where they were not measured.

    `eta`: seconds until the file under way is there, at this rate.
    """

    rate_up: float | None = None
    rate_down: float | None = None
    eta: float | None = None

    @property
    def rate(self) -> float:
        """In both directions together."""
        return (self.rate_up or 0.0) + (self.rate_down or 0.0)


class User(_Result, frozen=True):
    """What one user does at the moment; "" are those who have not logged in yet."""

    user: str
    sessions: int = 0
    transfers: int = 0
    rate_up: float = 0.0
    rate_down: float = 0.0


class Frame(_Result, frozen=True):
    """One look of forkctl top, at `at`; rates are of the `interval` before it.

    `cpu_percent` is of all processes together, of `cpus` times 100.
    """

    at: float
    interval: float
    state: str
    generation: int
    sessions: int
    sessions_limit: int | None
    transfers: int
    downloads: int
    uploads: int
    rate_up: float
    rate_down: float
    logins_rate: float
    logins_failed_rate: float
    cpu_percent: float
    cpus: int
    users: list[User]
    busiest: list[Session]


class Reload(_Result, frozen=True):
    """As reports.Reloaded, with the lines that were told on the way."""

    generation: int
    took: float
    notes: list[str]
    progress: list[str]


class Check(_Result, frozen=True):
    """`daemon` is what a running daemon says of a reload; null where none serves this file."""

    config: str
    problems: list[str]
    warnings: list[str]
    daemon: reports.Checked | None


class Quota(_Result, frozen=True):
    """The part of an account that is about space, in bytes."""

    name: str
    quota: int | str
    limit: int | None
    used: int
    reserved: int


class Secret(_Result, frozen=True):
    """A password that was made up; "" where it was chosen."""

    name: str
    password: str = ""


class NewAccount(reports.Account, frozen=True):
    """With the password, where it was made up."""

    password: str = ""


class Removed(_Result, frozen=True):
    name: str
    home: str
    files_deleted: bool


class Lifted(_Result, frozen=True):
    """The address that may log in again."""

    lifted: str
