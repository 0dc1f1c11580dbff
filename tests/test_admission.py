"""A log-in, step by step, with everything real but the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from corerig import ALICE, Place, place_in

from forkd.accounts import Credential
from forkd.accounts.sqlite import SqliteAccounts
from forkd.config import Accounts as AccountRules
from forkd.config import Config, Limits, Server
from forkd.config import Log as LogSettings
from forkd.errors import Refusal
from forkd.events.journal import SILENT
from forkd.limits.file import LimitsFile, Spot, allocate, limits_path
from forkd.limits.layout import WAYS
from forkd.limits.table import ADDRESS, USER, LimitTable
from forkd.log import open_log
from forkd.scoreboard import Scoreboard
from forkd.serving.admission import Attempt, Login, Proof, arrive
from forkd.serving.core import Core, Peer
from forkd.serving.pool import Mailbox, Pool
from forkd.serving.remembered import Remembered
from forkd.serving.session import Activity, Job, Pause
from forkd.serving.throttle import FREE
from forkd.serving.transfer import Kits
from forkd.storage.commit import make_committer
from forkd.storage.partials import Namer
from forkd.storage.store import LocalStore
from forkd.units import Bytes, Seconds

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse"
ORIGIN = "192.0.2.7"
Make = Callable[..., Core]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made


@pytest.fixture
def core_with(place: Place) -> Iterator[Make]:
    """A core with these limits, over one accounts database with alice."""
    folder = place.folder
    accounts = SqliteAccounts(str(folder / "accounts.db"), AccountRules(min_password=4), CHEAP)
    accounts.add("alice", PASSWORD, prepare=lambda account: None)
    server = Server(state_dir=str(place.state), runtime_dir=str(folder))
    allocate(Config(server=server), in_use=False)
    file = LimitsFile(limits_path(Config(server=server)))
    row = Scoreboard.create(str(folder / "scoreboard")).rows[1]
    ledger = place.ledger(1)

    def make(full: bool = False, **limits: object) -> Core:
        config = Config(server=server, storage=place.config.storage, limits=Limits(**limits))  # type: ignore[arg-type]
        return Core(
            config=config,
            generation=1,
            accounts=accounts,
            store=LocalStore(place.storage),
            ledger=ledger,
            committer=make_committer("none", Pool(), Mailbox()),
            journal=SILENT,
            namer=Namer(1, 7),
            limits=LimitTable(file, 1, config.limits.ban_window),
            remembered=Remembered(accounts, 60.0),
            kits=Kits(),
            row=row,
            log=open_log(LogSettings(level="error")),
            hashes_full=lambda: full,
            watch=lambda fd, call, wants=0: None,
            unwatch=lambda fd: None,
            ask_sessions=lambda _: lambda: None,
        )

    yield make
    accounts.close()
    file.close()


def peer(origin: str = ORIGIN) -> Peer:
    return Peer("s-1", f"{origin}:9", origin, True, "native", lambda: None)


def attempt(core: Core, password: str = PASSWORD, before: Login | None = None) -> Attempt:
    return Attempt(core, peer(), Activity(), "alice", password, before)


def verify(one: Attempt | Proof) -> None:
    """The step that asks for a thread, and the thread."""
    job = one.step()
    assert isinstance(job, Job)
    job.work()


def log_in(one: Attempt) -> Login:
    verify(one)
    login = one.step()
    assert isinstance(login, Login)
    return login


def refused(one: Attempt | Proof) -> Refusal:
    """Wait for the refusal."""
    while True:
        try:
            pause = one.step()
        except Refusal as refusal:
            return refusal
        assert isinstance(pause, Pause)
        time.sleep(max(0.0, pause.until - time.monotonic()))


def test_the_second_log_in_needs_no_thread(core_with: Make) -> None:
    core = core_with()
    log_in(attempt(core)).close()
    again = attempt(core)
    login = again.step()
    assert isinstance(login, Login)
    assert again.activity.user == "alice"
    assert core.row.get("logins_total:ok") == core.row.get("logins_total:remembered") == 1
    login.close()


def test_without_limits_all_is_counted_for_a_reload_that_brings_some(core_with: Make) -> None:
    old, new = core_with(), core_with(sessions_per_user=1, sessions_per_address=1)
    seat = arrive(old.limits, old.config, ORIGIN)
    login = log_in(attempt(old))
    assert login.up is login.down is FREE
    with pytest.raises(Refusal) as caught:
        arrive(new.limits, new.config, ORIGIN)
    assert caught.value.code == "too-many"
    one = attempt(new)
    verify(one)
    assert refused(one).code == "too-many"
    one.close()
    login.close()
    assert seat is not None
    seat.leave()
    assert arrive(new.limits, new.config, ORIGIN)


def test_no_room_to_count_keeps_nobody_out_where_nothing_is_limited(core_with: Make) -> None:
    core, metered = core_with(), core_with(user_bandwidth_up=Bytes(4096))
    file = core.limits.file
    first = file.spot(USER + "alice").first
    for cell in range(first, first + WAYS):
        file.give(cell, Spot(b"u:somebody", first, cell + 1))
        file.add_session(cell, 2, 1)
    login = log_in(attempt(core))
    assert login.seat is None
    login.close()
    one = attempt(metered)
    verify(one)
    assert refused(one).code == "busy"
    one.close()


CHANGES: dict[str, Callable[[SqliteAccounts], object]] = {
    "disabled": lambda accounts: accounts.change("alice", enabled=False),
    "removed": lambda accounts: accounts.remove("alice"),
    "removed and made again": lambda accounts: (
        accounts.add("bob", PASSWORD, prepare=lambda account: None),
        accounts.remove("alice"),
        accounts.add("carol", PASSWORD, prepare=lambda account: None),
        accounts.add("alice", PASSWORD, prepare=lambda account: None),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_while_the_password_is_verified_is_not_overlooked(
    core_with: Make, change: Callable[[object], object]
) -> None:
    core = core_with(sessions_per_user=1)
    one = attempt(core)
    verify(one)
    change(core.accounts)
    assert refused(one).code == "auth-failed"
    one.close()
    assert core.limits.sessions(USER + "alice") == 0


def test_what_was_changed_meanwhile_holds(core_with: Make) -> None:
    core = core_with()
    one = attempt(core)
    verify(one)
    core.accounts.change("alice", permissions={"read"}, quota=Bytes(99))
    login = one.step()
    assert isinstance(login, Login)
    assert login.account.permissions == {"read"}
    assert core.ledger.usage(ALICE).limit == 99
    with pytest.raises(Refusal):
        login.demand("write")
    login.close()


def test_a_user_s_sessions_are_limited(core_with: Make) -> None:
    core = core_with(sessions_per_user=2)
    held = [log_in(attempt(core))]
    second = attempt(core).step()  # remembered
    assert isinstance(second, Login)
    held.append(second)
    one_more = attempt(core)
    assert refused(one_more).code == "too-many"
    one_more.close()
    assert core.limits.sessions(USER + "alice") == 2
    for login in held:
        login.close()
    assert core.limits.sessions(USER + "alice") == 0


def test_one_who_logs_in_again_keeps_his_seat(core_with: Make) -> None:
    core = core_with(sessions_per_user=1)
    login = log_in(attempt(core))
    for _ in range(3):
        again = attempt(core, before=login).step()
        assert isinstance(again, Login)
        login = again
    assert core.limits.sessions(USER + "alice") == 1
    login.close()
    assert core.limits.sessions(USER + "alice") == 0


def test_a_wrong_password_is_told_later_and_later(core_with: Make) -> None:
    core = core_with()
    for seconds in (0.25, 0.5):
        one = attempt(core, "wrong")
        verify(one)
        began = time.monotonic()
        assert refused(one).code == "auth-failed"
        assert time.monotonic() - began >= seconds
        one.close()
    assert core.row.get("logins_total:failed") == 2


def test_a_ban_stops_what_waits_for_a_thread_before_it_is_hashed(core_with: Make) -> None:
    core = core_with(ban_after=1, ban_time=Seconds(60))
    first, second = attempt(core, "wrong"), attempt(core)
    second_job = second.step()
    assert isinstance(second_job, Job)
    verify(first)
    assert refused(first).code == "auth-failed"
    assert core.row.get("bans_total") == 1
    second_job.work()
    assert refused(second).code == "banned"
    assert refused(attempt(core)).code == "banned"
    with pytest.raises(Refusal) as caught:
        arrive(core.limits, core.config, ORIGIN)
    assert caught.value.code == "banned"
    assert arrive(core.limits, core.config, "192.0.2.8")


def test_where_too_many_are_verified_the_next_is_told_to_come_again(core_with: Make) -> None:
    attempt = Attempt(core_with(full=True), peer(), Activity(), "alice", PASSWORD)
    with pytest.raises(Refusal) as refused:
        attempt.step()
    assert refused.value.code == "busy"


def test_a_remembered_log_in_does_not_pass_a_ban(core_with: Make) -> None:
    core = core_with(ban_after=1)
    log_in(attempt(core)).close()
    core.limits.ban(ORIGIN, 60)
    assert refused(attempt(core)).code == "banned"


def test_a_name_that_nobody_can_have_is_not_kept(core_with: Make) -> None:
    core = core_with()
    one = Attempt(core, peer(), Activity(), "No Such Name" * 50, "wrong")
    verify(one)
    assert refused(one).code == "auth-failed"
    assert [cell.origin for cell in core.limits.failing()] == [ORIGIN]


def test_an_address_s_connections_are_limited_and_given_back(core_with: Make) -> None:
    core = core_with(sessions_per_address=1)
    seat = arrive(core.limits, core.config, ORIGIN)
    assert seat is not None
    with pytest.raises(Refusal) as caught:
        arrive(core.limits, core.config, ORIGIN)
    assert caught.value.code == "too-many"
    seat.leave()
    assert core.limits.sessions(ADDRESS + ORIGIN) == 0


def test_a_proof_does_its_work_once_the_password_is_right(core_with: Make) -> None:
    core = core_with()
    done: list[str] = []

    def then(proved: Credential) -> None:
        done.append(proved.account.name)
        if len(done) == 2:
            raise Refusal("weak-password", "too short")

    for password, result in ((PASSWORD, None), (PASSWORD, "weak-password"), ("no", "auth-failed")):
        proof = Proof(core, peer(), "alice", password, then)
        verify(proof)
        if result is None:
            assert isinstance(proof.step(), Credential)
        else:
            assert refused(proof).code == result
    assert done == ["alice", "alice"]


def test_of_two_password_changes_at_once_one_wins(core_with: Make) -> None:
    core = core_with()

    def change(new: str) -> Callable[[Credential], None]:
        return lambda proved: core.accounts.set_password("alice", new, proved.mark)

    first = Proof(core, peer(), "alice", PASSWORD, change("first new"))

    def then(proved: Credential) -> None:
        verify(first)
        change("second new")(proved)

    second = Proof(core, peer(), "alice", PASSWORD, then)
    verify(second)
    assert isinstance(first.step(), Credential)
    assert refused(second).code == "auth-failed"
    assert core.accounts.authenticate("alice", "first new")
