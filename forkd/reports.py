"""What forkd tells of itself: the answers on the control socket, and so forkctl's JSON.

Rules
  1. Sizes are in bytes, rates in bytes a second, durations and ages in seconds, moments in seconds
     since 1970.  What is not known, or without a limit, is null.
  2. What is written has every field.  What is read may lack some: the daemon may be older or newer
     than forkctl, so each field has a default.
  3. A field is never renamed and never changes its meaning; docs/forkctl-json.md is made of this.
"""

from __future__ import annotations

from msgspec import Struct

from forkd.messages import SessionInfo


class _Report(Struct, frozen=True, kw_only=True):
    pass


# the daemon


class Process(_Report, frozen=True):
    """`state` is starting, serving, draining or killed; `number` is the worker's, 0 for helpers.

    `cpu_percent` is of one CPU, over the last seconds.  `restarts`: who held its post and died,
    the last one for `last_death`.
    """

    role: str = "?"
    pid: int = 0
    generation: int = 0
    state: str = "?"
    started_ms: int = 0
    restarts: int = 0
    last_death: str = ""
    cpu_seconds: float = 0.0
    cpu_percent: float | None = None
    rss_bytes: int = 0


class Worker(Process, frozen=True):
    """`beat_age`: since its loop last turned.  `until`: when it is cut, if it drains in time."""

    slot: int = 0
    number: int = 0
    sessions: int = 0
    transfers: int = 0
    downloads: int = 0
    uploads: int = 0
    beat_age: float | None = None
    until: float | None = None


class Down(_Report, frozen=True):
    """A post that nobody fills for the moment: whoever did kept dying."""

    what: str = "?"
    failures: int = 0
    retry_in: float = 0.0
    reason: str = "?"


class Leaving(_Report, frozen=True):
    """A generation that serves no more; `seconds_left` None: as long as its transfers move.

    `generation` 0 is one that was given up.
    """

    generation: int = 0
    workers: int = 0
    sessions: int = 0
    transfers: int = 0
    seconds_left: float | None = None


class Totals(_Report, frozen=True):
    """Since the scoreboard was made, over restarts; `*_now` at this moment.

    `sessions` logged in, `logins` of them came by a password or were remembered.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    transfers: int = 0
    sessions: int = 0
    connections: int = 0
    sessions_now: int = 0
    transfers_now: int = 0
    downloads_now: int = 0
    uploads_now: int = 0
    logins: int = 0
    logins_failed: int = 0
    restarts: int = 0


class Rates(_Report, frozen=True):
    """Content in and out of the server, over the last seconds."""

    bytes_up: float = 0.0
    bytes_down: float = 0.0


class LastReload(_Report, frozen=True):
    """`outcome` is ok or failed, `message` what was told of it."""

    at: float = 0.0
    outcome: str = ""
    message: str = ""
    took: float = 0.0


class Hooks(_Report, frozen=True):
    """What hooks have not been told yet; `oldest` is the moment of the oldest such event."""

    names: list[str] = []
    waiting_bytes: int = 0
    oldest: float | None = None
    told: int = 0
    given_up: int = 0


class LogLevel(_Report, frozen=True):
    """`configured` differs from `level` after forkctl loglevel."""

    level: str = ""
    configured: str = ""


class Status(_Report, frozen=True):
    """`state` is starting, serving, reloading, drained or stopping; `metrics` an address or "".

    `inherited` are those of `listeners` that the service manager opened.
    """

    version: str = "?"
    pid: int = 0
    state: str = "serving"
    uptime: float = 0.0
    config: str = ""
    generation: int = 0
    loaded_at: float | None = None
    changed_on_disk: bool = False
    listeners: list[str] = []
    inherited: list[str] = []
    tls: str = ""
    metrics: str = ""
    sessions_limit: int | None = None
    drained_until: float | None = None
    log: LogLevel = LogLevel()
    rates: Rates = Rates()
    totals: Totals = Totals()
    workers: list[Worker] = []
    helpers: list[Process] = []
    draining: list[Leaving] = []
    backing_off: list[Down] = []
    foreign_slots: list[int] = []
    last_reload: LastReload | None = None
    hooks: Hooks | None = None

    @property
    def degraded(self) -> bool:
        """Whether nobody serves, or a process that should run cannot be kept running."""
        serving = any(worker.state == "serving" for worker in self.workers)
        return not serving or bool(self.backing_off) or self.state == "drained"


class Reloaded(_Report, frozen=True):
    """`notes` say what changed, and what needs a restart."""

    generation: int = 0
    took: float = 0.0
    notes: list[str] = []


class Checked(_Report, frozen=True):
    """`problems` would make the reload be refused; `notes` say what it would change."""

    config: str = ""
    problems: list[str] = []
    notes: list[str] = []


class Drained(_Report, frozen=True):
    """`took`: until the last session had ended."""

    sessions: int = 0
    took: float = 0.0


class Stopped(_Report, frozen=True):
    """The daemon's process is gone."""

    stopped: bool = True


class Kicked(_Report, frozen=True):
    """How many sessions were ended."""

    kicked: int = 0


class Workers(_Report, frozen=True):
    """How many there will be."""

    workers: int = 0


class Told(_Report, frozen=True):
    """How many workers were told of a changed account."""

    told: int = 0


class Serving(_Report, frozen=True):
    """The daemon takes sessions again, or did so all the time."""

    drained: bool = False


class SessionList(_Report, frozen=True):
    """Those of `silent_workers` are missing."""

    sessions: list[SessionInfo] = []
    silent_workers: int = 0


# accounts


class Account(_Report, frozen=True):
    """`quota` is bytes, "default" or "unlimited", `limit` the bytes that follow from it.

    `used` includes `reserved`, the whole sizes of uploads under way.  `sessions` are open of
    `sessions_limit`; `failed` log-ins of this name count at the moment (limits.ban_window).
    """

    name: str
    id: int = 0
    home: str = ""
    enabled: bool = True
    permissions: list[str] = []
    quota: int | str = "default"
    limit: int | None = None
    used: int = 0
    reserved: int = 0
    created: float = 0.0
    password_changed: float = 0.0
    sessions: int = 0
    sessions_limit: int | None = None
    failed: int = 0


class Ban(_Report, frozen=True):
    """An address with failed log-ins; `until` null: it is not banned."""

    address: str
    failures: int = 0
    until: float | None = None


class Comparison(_Report, frozen=True):
    """An account's charge and the disk; `drift` is the one less the other.

    `fixed`: the charge was corrected.  `exact` false: uploads were under way the whole time.
    `error` says why it could not be compared.
    """

    user: str = "?"
    charged: int = 0
    actual: int = 0
    drift: int = 0
    fixed: bool = False
    exact: bool = True
    error: str = ""


class Comparisons(_Report, frozen=True):
    """Of a verification."""

    accounts: list[Comparison] = []
