"""Many files: plans, pipelines, several connections, hostile listings, full quotas."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_peer import Peer, Stored

from forkd import verbs
from forkd.client import (
    Client,
    Event,
    File,
    Finished,
    KnownHosts,
    LocalError,
    LostError,
    Note,
    Plan,
    PutOptions,
    QuotaError,
    RemoteError,
    RetryPolicy,
    Settings,
)
from forkd.client.partfile import to_ns
from forkd.protocol import INLINE_MAX

PARENTS = PutOptions(parents=True)
EAGER = RetryPolicy(attempts=3, first=0.001, longest=0.001)


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def client(peer: Peer, events: list[Event]) -> Iterator[Client]:
    settings = Settings(KnownHosts(), retry=EAGER, stall=20.0, listener=events.append)
    with Client(peer.base, "wonderland", settings) as client:
        yield client


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """700 small files in 7 folders, 3 big ones, an empty folder, names that are no UTF-8."""
    top = tmp_path / "tree"
    rng = random.Random(7)
    for i in range(700):
        folder = top / f"d{i % 7}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{i}").write_bytes(rng.randbytes(rng.randrange(3000)))
    for i in range(3):
        (top / f"big{i}").write_bytes(rng.randbytes(INLINE_MAX + 1 + i))
    (top / "empty" / "inside").mkdir(parents=True)
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"latin-1")
    return top


def contents(top: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(folder, name), top): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(top)
        for name in names
    }


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_folder_there_and_back(
    peer: Peer, client: Client, tree: Path, tmp_path: Path, events: list[Event], jobs: int
) -> None:
    plan = client.plan_put(str(tree), "t")
    assert (len(plan.files), plan.size) == (704, sum(map(len, contents(tree).values())))
    summary = client.put_many(plan, PARENTS, jobs)
    assert (summary.files, summary.failed, summary.left) == (704, [], 0)
    assert summary.size == plan.size
    assert len([event for event in events if isinstance(event, Finished)]) == 704
    assert peer.connections == (1 if jobs == 1 else 4)
    assert peer.files["t/caf\uefe9"].data == b"latin-1"
    assert "t/empty/inside" in peer.folders

    back = tmp_path / "back"
    got = client.get_many(client.plan_get("t", str(back)), jobs=jobs)
    assert (got.files, got.failed) == (704, [])
    assert contents(back) == contents(tree)
    assert (back / "empty" / "inside").is_dir()
    here, there = (tree / "d1/deep/f1").stat(), (back / "d1/deep/f1").stat()
    assert there.st_mtime == pytest.approx(here.st_mtime, abs=2e-6)


def test_what_is_there_is_not_moved_again(
    peer: Peer, client: Client, tree: Path, tmp_path: Path
) -> None:
    plan = client.plan_put(str(tree), "t")
    client.put_many(plan, PARENTS)
    (tree / "d1/deep/f1").write_bytes(b"other")
    os.utime(tree / "d2/deep/f2", ns=(1, 1))
    rest = client.without_stored(client.plan_put(str(tree), "t"))
    assert {Path(file.remote).name for file in rest.files} == {"f1", "f2"}
    assert rest.skipped == 702

    back = tmp_path / "back"
    client.get_many(client.plan_get("t", str(back)))
    (back / "d3/deep/f3").unlink()
    (back / "d4/deep/f4").write_bytes(b"other")
    missing = client.without_present(client.plan_get("t", str(back)))
    assert {Path(file.remote).name for file in missing.files} == {"f3", "f4"}


def test_a_folder_that_may_not_be_listed_saves_nothing(
    peer: Peer, client: Client, tree: Path
) -> None:
    peer.refuse["list"] = ["denied"] * 20
    plan = client.plan_put(str(tree), "t")
    assert len(client.without_stored(plan).files) == len(plan.files)


def test_pipelines_survive_lost_connections(peer: Peer, client: Client, tree: Path) -> None:
    peer.cut_after_requests = [100, 1, 300]
    summary = client.put_many(client.plan_put(str(tree), "t"), PARENTS, jobs=1)
    assert (summary.files, summary.failed) == (704, [])
    assert peer.connections == 4
    expected = {f"t/{name}": data for name, data in contents(tree).items() if name.isascii()}
    assert {name: file.data for name, file in peer.files.items() if name.isascii()} == expected


def test_pipelines_follow_a_server_that_leaves(
    peer: Peer, client: Client, tree: Path, events: list[Event]
) -> None:
    peer.leave_after_requests = [50, 50, 50, 50, 50]
    summary = client.put_many(client.plan_put(str(tree), "t"), PARENTS, jobs=1)
    assert (summary.files, summary.failed) == (704, [])
    assert peer.connections == 6
    assert "trying again" not in notes(events), "a reload is nothing to tell"


def test_pipelines_wait_for_a_busy_server(peer: Peer, client: Client, tree: Path) -> None:
    peer.refuse["put"] = ["busy", "busy", "busy"]
    summary = client.put_many(client.plan_put(str(tree), "t"), PARENTS, jobs=1)
    assert (summary.files, summary.failed) == (704, [])


def test_one_bad_file_does_not_hold_up_the_others(
    peer: Peer, client: Client, tree: Path, tmp_path: Path
) -> None:
    plan = client.plan_put(str(tree), "t")
    (tree / "d1/deep/f1").unlink()
    (tree / "big1").unlink()
    (tree / "d2/deep/f2").write_bytes(bytes(INLINE_MAX + 5))  # it was small when it was planned
    peer.refuse["put"] = ["denied"]
    summary = client.put_many(plan, PARENTS)
    assert summary.files == 700
    codes = {Path(failed.path).name: failed.code for failed in summary.failed}
    assert (codes.pop("f1"), codes.pop("big1"), codes.pop("f2")) == ("local", "local", "changed")
    assert list(codes.values()) == ["denied"]


def test_a_full_quota_ends_it(peer: Peer, client: Client, tree: Path) -> None:
    peer.limit = 100_000
    summary = client.put_many(client.plan_put(str(tree), "t"), PARENTS, jobs=2)
    assert isinstance(summary.first_error, QuotaError)
    assert sum(len(file.data) for file in peer.files.values()) <= 100_000
    assert summary.files + len(summary.failed) + summary.left == 704
    assert summary.left > 0


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_lost_server_ends_it(peer: Peer, client: Client, tree: Path, jobs: int) -> None:
    client.connect()
    peer.cut_after_requests = [0] * 100
    with pytest.raises(LostError):
        client.put_many(client.plan_put(str(tree), "t"), PARENTS, jobs)


def test_small_files_that_grew_are_got_whole(peer: Peer, client: Client, tmp_path: Path) -> None:
    big = random.Random(3).randbytes(3 * INLINE_MAX)
    peer.files["f"] = Stored(big)
    target = tmp_path / "f"
    plan = Plan([File(str(target), "f", 10, 0.0)])
    summary = client.get_many(plan)
    assert (summary.files, summary.size) == (1, len(big))
    assert target.read_bytes() == big


def test_a_wrong_byte_in_a_small_file(peer: Peer, client: Client, tmp_path: Path) -> None:
    peer.files["f"] = Stored(b"content")
    peer.corrupt_gets = 1
    summary = client.get_many(Plan([File(str(tmp_path / "f"), "f", 7, 0.0)]))
    assert [failed.code for failed in summary.failed] == ["verify"]
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("name", ["..", "../evil", "/etc/evil", "a/b", "", ".", "x\0y", "\ud83d"])
def test_hostile_names_do_not_leave_the_folder(
    peer: Peer, client: Client, tmp_path: Path, events: list[Event], name: str
) -> None:
    folder = tmp_path / "target" / "inner"
    escaped = name.encode("utf-8", "surrogatepass").decode("latin-1") if name == "\ud83d" else name
    peer.listing[""] = [
        {"name": escaped, "type": kind, "size": 4, "mtime": 1.0} for kind in ("file", "folder")
    ]
    peer.listing[""].append({"name": "good", "type": "file", "size": 4, "mtime": 1.0})
    peer.files["good"] = Stored(b"good")
    if name == "\ud83d":
        peer.listing[""] = peer.listing[""][2:]
    before = sorted(os.listdir(tmp_path))
    plan = client.plan_get("", str(folder))
    client.get_many(plan)
    assert contents(tmp_path / "target") == {"inner/good": b"good"}
    assert len(plan.failed) == (0 if name == "\ud83d" else 2)
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "target"])


def test_a_listing_without_an_end_of_depth(peer: Peer, client: Client, events: list[Event]) -> None:
    path = ""
    for _ in range(400):
        peer.listing[path] = [{"name": "x", "type": "folder", "size": 0, "mtime": 0.0}]
        path = f"{path}/x".lstrip("/")
    plan = client.plan_get("", "here")
    assert 100 < len(plan.folders) < 400
    assert [failed.error for failed in plan.failed] == ["more than 200 folders deep"]


def test_a_listing_that_is_none(peer: Peer, client: Client) -> None:
    peer.listing[""] = [{"name": 5}]
    with pytest.raises(Exception, match="listing is malformed"):
        client.list()


def test_links_and_special_files(
    client: Client, peer: Peer, tmp_path: Path, events: list[Event]
) -> None:
    top = tmp_path / "t"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_bytes(b"f")
    (top / "link").symlink_to("file")
    (top / "sub" / "loop").symlink_to("..")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "fifo")
    plain = client.plan_put(str(top), "t")
    assert [file.remote for file in plain.files] == ["t/file"]
    for name in ("link", "loop", "dangling"):
        assert f"{name}: a symbolic link; left out" in notes(events)
    assert "fifo: not a file; left out" in notes(events)

    followed = client.plan_put(str(top), "t", follow=True)
    assert sorted(file.remote for file in followed.files) == ["t/file", "t/link"]
    assert "a link that leads into itself" in notes(events)
    with pytest.raises(LocalError):
        client.plan_put(str(tmp_path / "missing"), "t")


def test_remote_links(client: Client, peer: Peer, tmp_path: Path, events: list[Event]) -> None:
    entry = {"size": 0, "mtime": 0.0}
    peer.listing["t"] = [
        {"name": "to-file", "type": "link", **entry},
        {"name": "to-folder", "type": "link", **entry},
        {"name": "broken", "type": "link", **entry},
        {"name": "socket", "type": "other", **entry},
    ]
    peer.files["t/to-file"] = Stored(b"abc")
    peer.folders |= {"t", "t/to-folder"}
    assert not client.plan_get("t", str(tmp_path)).files
    assert notes(events).count("left out") == 4
    plan = client.plan_get("t", str(tmp_path), follow=True)
    assert [(file.remote, file.size) for file in plan.files] == [("t/to-file", 3)]
    assert [(failed.path, failed.code) for failed in plan.failed] == [("t/broken", "not-found")]


def test_what_cannot_be_looked_into_has_failed(
    client: Client, peer: Peer, tmp_path: Path, events: list[Event]
) -> None:
    top = tmp_path / "t"
    top.mkdir()
    (top / "file").write_bytes(b"f")
    deep = os.open(top, os.O_RDONLY)
    for _ in range(20):  # its path becomes longer than the system takes
        os.mkdir("d" * 250, dir_fd=deep)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    plan = client.plan_put(str(top), "t")
    assert [failed.error for failed in plan.failed] == ["File name too long"]
    plan = client.without_stored(plan)
    summary = client.put_many(plan, PARENTS)
    assert (summary.files, len(summary.failed), summary.left) == (1, 1, 0)
    assert [event.path for event in events if isinstance(event, Finished) and event.error] == [
        summary.failed[0].path
    ]

    peer.folders |= {"r", "r/open", "r/shut"}
    peer.files["r/open/f"] = Stored(b"x")
    peer.refuse["list"] = []
    plan = client.plan_get("r", str(tmp_path / "r"))
    assert not plan.failed
    peer.folders.remove("r/shut")
    peer.listing["r"] = [
        {"name": name, "type": "folder", "size": 0, "mtime": 0.0} for name in ("open", "shut")
    ]
    plan = client.without_present(client.plan_get("r", str(tmp_path / "r")))
    assert [(failed.path, failed.code) for failed in plan.failed] == [("r/shut", "not-found")]
    assert [file.remote for file in plan.files] == ["r/open/f"]


def test_a_folder_that_is_not_there(client: Client, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="not-found"):
        client.plan_get("nope", str(tmp_path))


def test_all_the_small_verbs(client: Client, peer: Peer) -> None:
    client.mkdir("a/b", parents=True)
    client.put_bytes(b"1", "a/b/c")
    client.put_bytes(b"22", "d")
    assert sorted(entry.name for entry in client.list()) == ["a", "d"]
    assert client.stat("a/b").type == "folder"
    with pytest.raises(RemoteError, match="exists"):
        client.move("d", "a/b/c")
    client.move("d", "a/b/c", replace=True)
    assert client.get_bytes("a/b/c") == b"22"
    assert client.remove("a", recursive=True).files == 1
    with pytest.raises(RemoteError, match="exists"):
        client.put_bytes(b"x", "e"), client.put_bytes(b"y", "e", PutOptions(replace=False))
    assert client.quota().used == 1
    output: list[tuple[str, bytes]] = []
    ended = client.run("hello", lambda stream, data: output.append((stream, bytes(data))))
    assert (ended.status, output) == (3, [("stdout", b"out\n"), ("stderr", b"err\n")])


def test_accounts(client: Client, peer: Peer) -> None:
    client.passwd("wonderland", "looking-glass")
    client.close()
    assert client.quota().used == 0, "a reconnect uses the new password"
    with Client(peer.base) as stranger:
        stranger.register("bob", "builder-1")
        assert stranger.log_in("bob", "builder-1").user == "bob"
        with pytest.raises(RemoteError, match="taken"):
            stranger.register("bob", "builder-1")
        with pytest.raises(RemoteError, match="auth-failed"):
            stranger.log_in("bob", "wrong")
    auths = [request for request in peer.requests if isinstance(request, verbs.Auth)]
    assert auths[-1].user == "bob"


@pytest.mark.parametrize(
    ("mtime", "time"),
    [
        (0.0, 0),
        (1_600_000_000.25, 1_600_000_000_250_000_000),
        (-1.5, -1_500_000_000),
        (1e300, 10**20),
        (-1e300, -(10**20)),
    ],
)
def test_times_that_no_file_system_could_hold_are_cut(
    mtime: float, time: int, tmp_path: Path
) -> None:
    assert to_ns(mtime) == time
    (tmp_path / "f").touch()
    os.utime(tmp_path / "f", ns=(time, time))
