"""Who may come in: bans, counts, the delay of failed log-ins.  The same for every door.

    arrive     a connection was accepted: is its address banned, has it too many?
    Proof      a password is being verified; a wrong one is told after a delay
    Attempt    a log-in: a proof, or one that is remembered, then a seat and the account's tree

`step()` of proof and attempt answers with an outcome for the loop, or with its result, or raises
the refusal when its time has come.  No thread waits for a delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from forkd.accounts import Account, Credential, is_name
from forkd.config import Config
from forkd.errors import Refusal
from forkd.events.records import Origin
from forkd.events.teller import Teller
from forkd.limits import policy
from forkd.limits.table import ADDRESS, DOWN, UP, USER, LimitTable, Seat
from forkd.serving.core import Core, Peer
from forkd.serving.session import AGAIN, Activity, Job, Outcome, Pause, Weight
from forkd.serving.throttle import FREE, Flow, flow
from forkd.storage.growing import GrowingTree
from forkd.units import format_count, format_seconds


@dataclass(slots=True)
class Login:
    """Who the session belongs to, and what it holds for that."""

    account: Account
    files: GrowingTree
    seat: Seat | None = None
    up: Flow = FREE
    down: Flow = FREE

    def allows(self, permission: str) -> bool:
        return permission in self.account.permissions

    def demand(self, permission: str) -> None:
        """Raises Refusal (denied)."""
        if not self.allows(permission):
            raise Refusal("denied", f"this account lacks the permission {permission!r}")

    def close(self) -> None:
        """Give back everything."""
        self.up.close()
        self.down.close()
        if self.seat is not None:
            self.seat.leave()
        self.files.close()


def arrive(limits: LimitTable, config: Config, origin: str) -> Seat | None:
    """A connection from `origin`: its seat, None without a limit and without room to count it.

    Raises Refusal: banned, too-many, busy.
    """
    demand_welcome(limits, config, origin)
    most = _most(config.limits.sessions_per_address)
    seat = _enter(limits, ADDRESS + origin, most)
    if most and seat is None:
        raise Refusal(
            "too-many", f"{origin} has {format_count(most, 'connection')} already; try again later"
        )
    return seat


def _enter(limits: LimitTable, key: str, most: int) -> Seat | None:
    """Counted without a limit too, as far as there is room: a reload may bring one."""
    try:
        return limits.enter(key, most)
    except Refusal:
        if most:
            raise
        return None


def demand_welcome(limits: LimitTable, config: Config, origin: str) -> None:
    """Raises Refusal: banned, busy."""
    if not config.limits.ban_after:
        return
    seconds = limits.banned_for(origin)
    if seconds:
        raise Refusal(
            "banned",
            f"too many log-ins from {origin} failed: connections from there are refused for "
            f"another {format_seconds(seconds + 1)}",
        )


def demand_hash(core: Core) -> None:
    """Raises Refusal (busy) where too many passwords wait to be hashed already."""
    if core.hashes_full():
        raise Refusal("busy", "too many log-ins are being verified at the moment; try again")


class Proof:
    """A password that is being verified, and what is to be done once it is right."""

    def __init__(
        self, core: Core, peer: Peer, name: str, password: str, then: Callable[[Credential], None]
    ) -> None:
        """`then` runs on the thread that verified; it may raise Refusal."""
        self._core = core
        self._peer = peer
        self._name = name
        self._password = password
        self._then = then
        self._proved: Credential | None = None
        self._refusal: Refusal | None = None
        self._answer_at: float | None = None

    def step(self) -> Outcome | Credential:
        """On the loop's thread.  Raises Refusal: auth-failed, banned, busy and those of `then`."""
        if self._refusal is not None:
            return self._refuse(self._refusal)
        if self._proved is not None:
            return self._proved
        demand_welcome(self._core.limits, self._core.config, self._peer.origin)
        demand_hash(self._core)
        return Job(self._verify, Weight.HASH)

    def _verify(self) -> Outcome:
        try:
            # while it waited for a thread, others may have failed
            demand_welcome(self._core.limits, self._core.config, self._peer.origin)
            proved = self._core.remembered.authenticate(self._name, self._password)
            self._then(proved)
        except Refusal as refusal:
            self._refusal = refusal
        else:
            self._proved = proved
        return AGAIN

    def _refuse(self, refusal: Refusal) -> Outcome:
        if self._answer_at is None:
            failed = refusal.code == "auth-failed"
            self._answer_at = time.monotonic() + (self._note_failure() if failed else 0.0)
        if time.monotonic() < self._answer_at:
            return Pause(self._answer_at)
        raise refusal

    def _note_failure(self) -> float:
        """Count it, ban whom it is to be; seconds until it is told."""
        core, peer, rules = self._core, self._peer, self._core.config.limits
        core.row.add("logins_total:failed")
        core.log.warning(
            "login-failed", user=self._name, session=peer.session, address=peer.address
        )
        try:
            failures = core.limits.failed(ADDRESS + peer.origin)
            seconds = policy.delay(failures, policy.LONGEST_DELAY)
            if is_name(self._name):
                tried = core.limits.failed(USER + self._name)
                seconds = max(seconds, policy.delay(tried, policy.LONGEST_NAME_DELAY))
            if policy.is_ban(failures, rules.ban_after):
                core.limits.ban(peer.origin, rules.ban_time)
                core.row.add("bans_total")
                core.log.warning(
                    "banned",
                    origin=peer.origin,
                    session=peer.session,
                    failures=failures,
                    seconds=float(rules.ban_time),
                )
        except Refusal:  # it could not be counted, so it is as bad as can be
            return policy.LONGEST_DELAY
        return seconds


@dataclass(slots=True)
class Attempt:
    """A log-in of one session; `close` unless its result was taken."""

    core: Core
    peer: Peer
    activity: Activity
    name: str
    password: str
    before: Login | None = None
    """The log-in that a success replaces."""
    _proof: Proof | None = field(default=None, init=False)
    _files: GrowingTree | None = field(default=None, init=False)

    def step(self) -> Outcome | Login:
        """On the loop's thread.  Raises Refusal: auth-failed, banned, too-many, busy, io-error."""
        if self._proof is None:
            demand_welcome(self.core.limits, self.core.config, self.peer.origin)
            recalled = self.core.remembered.recall(self.name, self.password)
            if recalled is not None:
                self._open(recalled)
                return self._enter(recalled.account, "remembered")
            self._proof = Proof(self.core, self.peer, self.name, self.password, self._open)
        verified = self._proof.step()
        if not isinstance(verified, Credential):
            return verified
        known = self.core.accounts.credential(self.name)
        if known is None or known.mark != verified.mark or not known.account.enabled:
            raise Refusal(
                "auth-failed", "the account was just disabled or removed, or its password changed"
            )
        return self._enter(known.account, "ok")

    def close(self) -> None:
        """It is over without a result."""
        if self._files is not None:
            self._files.close()
            self._files = None

    def _open(self, proved: Credential) -> None:
        core, account = self.core, proved.account
        tree = core.store.open_tree(account.id, account.home)
        origin = Origin(account.id, account.name, account.home, self.peer.session, self.peer.door)
        teller = Teller(core.journal, origin)
        self._files = GrowingTree(tree, core.ledger, account.id, core.namer, teller)

    def _enter(self, account: Account, how: str) -> Login:
        """`account` was looked up in this very step: what is changed later is told to this session.

        Raises Refusal: too-many, busy.
        """
        files, rules = self._files, self.core.config.limits
        assert files is not None
        apply_quota(self.core, account)
        seat = self._seat()
        login = Login(
            account,
            files,
            seat,
            flow(seat, UP, rules.user_bandwidth_up),
            flow(seat, DOWN, rules.user_bandwidth_down),
        )
        self._files = None
        if self.before is not None:
            self.before.close()
        self._welcome(account, how)
        return login

    def _seat(self) -> Seat | None:
        """A seat among the user's sessions; one who logs in again keeps his."""
        rules = self.core.config.limits
        most = _most(rules.sessions_per_user)
        metered = (rules.user_bandwidth_up, rules.user_bandwidth_down) != ("unlimited",) * 2
        before = self.before
        if before is not None and before.account.name == self.name and before.seat is not None:
            kept, before.seat = before.seat, None
            return kept
        seat = _enter(self.core.limits, USER + self.name, most)
        if seat is None and most:
            raise Refusal(
                "too-many",
                f"{self.name} has {format_count(most, 'session')} already; try again later",
            )
        if seat is None and metered:
            raise Refusal("busy", "the server has no room to meter this session; try again")
        return seat

    def _welcome(self, account: Account, how: str) -> None:
        core, peer, activity = self.core, self.peer, self.activity
        activity.user, activity.state = account.name, "idle"
        core.row.add(f"logins_total:{how}")
        core.row.add("sessions_total")
        core.log.info(
            "login",
            user=account.name,
            session=peer.session,
            address=peer.address,
            tls=activity.tls,
        )


def look_again(core: Core, login: Login) -> bool:
    """What the account may do now holds for its session too; False when it is to end.

    On a thread.  Raises Refusal: busy, io-error.
    """
    account = core.accounts.get(login.account.name)
    if account is None or not account.enabled or account.id != login.account.id:
        return False
    apply_quota(core, account)
    login.account = account
    return True


def apply_quota(core: Core, account: Account) -> None:
    """Let the ledger know the account's limit.  Raises Refusal (busy)."""
    limit = account.limit(core.config.quota.default)
    try:
        core.ledger.set_limit(account.id, account.name, limit)
    except IndexError:  # accounts.max was raised; the next generation has the room
        raise Refusal("busy", "this server process is too old for the account") from None


def _most(count: int | str) -> int:
    return 0 if isinstance(count, str) else count
