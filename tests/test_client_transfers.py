"""One file up or down: resume, proof, change under way, refusal in the middle."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from client_peer import Partial, Peer, Stored, make_certificate

from forkd import verbs
from forkd.client import (
    ChangedError,
    Client,
    Event,
    File,
    KnownHosts,
    LocalError,
    LostError,
    Moved,
    Note,
    Plan,
    ProtocolError,
    PutOptions,
    QuotaError,
    RemoteError,
    RetryPolicy,
    Settings,
    Started,
    Url,
    VerifyError,
)
from forkd.client.download import Fetch, _Answer
from forkd.client.partfile import PartFile, part_path, write_small
from forkd.client.source import open_source
from forkd.digest import digest_of
from forkd.protocol import BLOCK, INLINE_MAX

BIG = random.Random(1).randbytes(5 * BLOCK + 123)
EAGER = RetryPolicy(attempts=3, first=0.001, longest=0.001)


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(params=["plain", "tls"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(cert=make_certificate(tmp_path) if request.param == "tls" else None)
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
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(BIG)
    return path


def offsets(events: list[Event]) -> list[int]:
    return [event.offset for event in events if isinstance(event, Started)]


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


# small ones


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX])
def test_a_small_file_goes_in_one_message(
    peer: Peer, client: Client, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "small"
    path.write_bytes(BIG[:size])
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    stored = client.put_file(str(path), "s")
    assert (stored.size, stored.digest) == (size, digest_of(BIG[:size]))
    assert peer.files["s"].data == BIG[:size]
    assert peer.files["s"].mtime == pytest.approx(1_600_000_000.123456789, abs=1e-6)
    assert client.get_bytes("s") == BIG[:size]


def test_one_byte_more_is_a_stream(peer: Peer, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(BIG[: INLINE_MAX + 1])
    client.put_file(str(path), "s", PutOptions(keep_mtime=False))
    assert peer.files["s"] == Stored(BIG[: INLINE_MAX + 1], 1.0)


def test_put_bytes_knows_its_limit(client: Client) -> None:
    with pytest.raises(LocalError, match="at most"):
        client.put_bytes(bytes(INLINE_MAX + 1), "s")


def test_parts_of_a_file(peer: Peer, client: Client) -> None:
    peer.files["f"] = Stored(BIG)
    assert client.get_bytes("f", 100, 50) == BIG[100:150]
    assert client.get_bytes("f", len(BIG) - 3) == BIG[-3:]
    with pytest.raises(RemoteError) as caught:
        client.get_bytes("f", len(BIG) + 1)
    assert caught.value.code == "bad-range"
    assert "session s-1" in str(caught.value)


# streams up


@pytest.mark.parametrize("check", [True, False])
def test_a_stream_arrives(
    peer: Peer, client: Client, big: Path, events: list[Event], check: bool
) -> None:
    stored = client.put_file(str(big), "b", PutOptions(check=check))
    assert peer.files["b"].data == BIG
    assert stored.digest == (digest_of(BIG) if check else None)
    assert sum(event.count for event in events if isinstance(event, Moved)) == len(BIG)


def test_a_size_that_ends_with_a_block(peer: Peer, client: Client, big: Path) -> None:
    os.truncate(big, 2 * BLOCK)
    client.put_file(str(big), "b")
    assert peer.files["b"].data == BIG[: 2 * BLOCK]


@pytest.mark.parametrize("check", [True, False])
def test_a_lost_connection_goes_on_where_it_stopped(
    peer: Peer, client: Client, big: Path, events: list[Event], check: bool
) -> None:
    peer.cut_put_at = [BLOCK + 5, BLOCK + 5]
    client.put_file(str(big), "b", PutOptions(check=check))
    assert peer.files["b"].data == BIG
    assert peer.connections == 3
    begun = offsets(events)
    assert begun[0] == 0
    assert BLOCK <= begun[1] < begun[2]
    if check:
        assert begun == [0, BLOCK, 2 * BLOCK]


def test_progress_renews_the_patience(peer: Peer, client: Client, big: Path) -> None:
    peer.cut_put_at = [BLOCK] * 5  # more often than EAGER.attempts
    client.put_file(str(big), "b")
    assert peer.files["b"].data == BIG


def test_patience_without_progress_ends(peer: Peer, client: Client, big: Path) -> None:
    client.connect()
    peer.cut_after_requests = [0] * 20
    with pytest.raises(LostError):
        client.put_file(str(big), "b")
    assert len(peer.cut_after_requests) == 20 - (1 + EAGER.attempts)


def test_another_process_resumes(peer: Peer, big: Path, events: list[Event]) -> None:
    never = Settings(KnownHosts(), retry=RetryPolicy(attempts=0), listener=events.append)
    peer.cut_put_at = [3 * BLOCK]
    with Client(peer.base, "wonderland", never) as first, pytest.raises(LostError):
        first.put_file(str(big), "b")
    with Client(peer.base, "wonderland", never) as second:
        second.put_file(str(big), "b")
    assert offsets(events) == [0, 3 * BLOCK]
    assert peer.files["b"].data == BIG
    puts = [put for put in peer.requests if isinstance(put, verbs.Put)]
    assert puts[0].client == puts[1].client != ""
    assert puts[0].tag == puts[1].tag != ""


def test_a_changed_source_starts_again(
    peer: Peer, client: Client, big: Path, events: list[Event]
) -> None:
    told = (len(BIG), "another version", True)
    peer.partials["b"] = Partial(bytearray(BIG[: 2 * BLOCK]), told)
    client.put_file(str(big), "b")
    assert peer.files["b"].data == BIG
    assert "it changed since it was interrupted; starting again from 0" in notes(events)
    assert offsets(events) == [0]


def test_a_wrong_proof_is_never_spliced_on(
    peer: Peer, client: Client, big: Path, events: list[Event]
) -> None:
    with open_source(str(big)) as source:
        told = (source.size, source.tag, True)
    wrong = bytes([BIG[0] ^ 1]) + BIG[1 : 2 * BLOCK]
    peer.partials["b"] = Partial(bytearray(wrong), told)
    client.put_file(str(big), "b")
    assert peer.files["b"].data == BIG
    assert "what the server holds of it is not its beginning" in notes(events)


@pytest.mark.parametrize("check", [True, False])
def test_a_source_that_shrinks_is_not_published(
    peer: Peer, client: Client, big: Path, events: list[Event], check: bool
) -> None:
    peer.files["b"] = Stored(b"old")

    def shrink(event: Event) -> None:
        if isinstance(event, Moved):
            os.truncate(big, BLOCK + 1)

    settings = Settings(KnownHosts(), retry=EAGER, listener=shrink)
    with Client(peer.base, "wonderland", settings) as watched:
        with pytest.raises(ChangedError, match=r"big\.bin"):
            watched.put_file(str(big), "b", PutOptions(check=check))
        assert peer.files["b"].data == b"old"
        assert watched.put_bytes(b"x", "after").size == 1


def test_a_source_that_is_rewritten_is_not_published(peer: Peer, big: Path) -> None:
    peer.files["b"] = Stored(b"old")

    def touch(event: Event) -> None:
        if isinstance(event, Moved):
            os.utime(big, ns=(5, 5))

    settings = Settings(KnownHosts(), retry=EAGER, listener=touch)
    with Client(peer.base, "wonderland", settings) as watched:
        with pytest.raises(ChangedError):
            watched.put_file(str(big), "b")
        connections = peer.connections
        watched.quota()
        assert peer.connections == connections, "an abort that was answered costs no connection"
    assert peer.files["b"].data == b"old"


@pytest.mark.parametrize("check", [True, False])
def test_a_refusal_in_the_middle(peer: Peer, client: Client, big: Path, check: bool) -> None:
    peer.refuse["data"] = ["no-space"]
    with pytest.raises(RemoteError, match="refused in the middle") as caught:
        client.put_file(str(big), "b", PutOptions(check=check))
    assert caught.value.code == "no-space"
    assert client.put_bytes(b"x", "after").size == 1
    assert peer.connections == 1


def test_a_refusal_before_the_first_byte(
    peer: Peer, client: Client, big: Path, events: list[Event]
) -> None:
    peer.limit = 1000
    with pytest.raises(QuotaError):
        client.put_file(str(big), "b")
    assert not [event for event in events if isinstance(event, Moved)]
    assert not peer.partials


def test_a_broken_digest_is_tried_again_a_little(peer: Peer, client: Client, big: Path) -> None:
    peer.refuse["put"] = ["digest-mismatch"]
    client.put_file(str(big), "b")
    assert peer.files["b"].data == BIG
    peer.refuse["put"] = ["digest-mismatch"] * 10
    with pytest.raises(RemoteError):
        client.put_file(str(big), "b")
    assert len(peer.refuse["put"]) == 7


def test_busy_is_waited_for(peer: Peer, client: Client, events: list[Event]) -> None:
    peer.refuse["quota"] = ["busy", "busy"]
    assert client.quota().used == 0
    assert notes(events).count("trying again") == 2


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_what_cannot_be_sent(client: Client, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(LocalError, match=kind):
        client.put_file(str(path), "x")


def test_a_resume_in_one_process_reads_nothing_twice(big: Path) -> None:
    with open_source(str(big)) as source:
        digest = source.digest_to(3 * BLOCK)
        digest.update(BIG[3 * BLOCK : 4 * BLOCK])
        assert source.digested == 4 * BLOCK
        with open(big, "r+b") as file:  # were it read again, this would show
            file.write(b"changed")
        assert source.digest_to(2 * BLOCK).hexdigest() == digest_of(BIG[: 2 * BLOCK])


# down

LONG = random.Random(2).randbytes(8 * BLOCK + 100)


def get_offsets(peer: Peer) -> list[int]:
    return [get.offset for get in peer.requests if isinstance(get, verbs.Get)]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("size", [len(LONG), 2 * BLOCK])
def test_a_file_comes_by_one_get(
    peer: Peer, client: Client, tmp_path: Path, check: bool, size: int
) -> None:
    peer.files["f"] = Stored(LONG[:size], 1_600_000_000.25)
    target = tmp_path / "got"
    target.write_bytes(b"old")
    assert client.get_file("f", str(target), check) == size
    assert target.read_bytes() == LONG[:size]
    assert target.stat().st_mtime == 1_600_000_000.25
    assert not [name for name in os.listdir(tmp_path) if "forkc-part" in name]
    assert get_offsets(peer) == [0]


@pytest.mark.parametrize("size", [0, 1])
def test_a_tiny_file(peer: Peer, client: Client, tmp_path: Path, size: int) -> None:
    peer.files["f"] = Stored(BIG[:size])
    client.get_file("f", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == BIG[:size]


@pytest.mark.parametrize("check", [True, False])
def test_a_lost_download_goes_on_after_the_last_proved_block(
    peer: Peer, client: Client, tmp_path: Path, events: list[Event], check: bool
) -> None:
    peer.files["f"] = Stored(LONG)
    peer.cut_get_at = [2 * BLOCK + 5 * (1 << 20), BLOCK + (1 << 20)]
    client.get_file("f", str(tmp_path / "got"), check)
    assert (tmp_path / "got").read_bytes() == LONG
    assert peer.connections == 3
    first, second, third = get_offsets(peer)
    assert (first, second) == (0, 3 * BLOCK)
    assert third == (3 if check else 4) * BLOCK, "what was not told is not proved"
    assert offsets(events) == [first, second, third]


def test_a_server_that_tells_no_blocks_is_believed_at_the_end(
    peer: Peer, client: Client, tmp_path: Path
) -> None:
    peer.tell_blocks = False
    peer.files["f"] = Stored(LONG)
    peer.cut_get_at = [3 * BLOCK]
    client.get_file("f", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == LONG
    assert get_offsets(peer) == [0, 0]


def test_a_line_that_proves_nothing_is_given_up(peer: Peer, client: Client, tmp_path: Path) -> None:
    peer.tell_blocks = False
    peer.files["f"] = Stored(LONG)
    peer.cut_get_at = [3 * BLOCK] * 20
    with pytest.raises(LostError):
        client.get_file("f", str(tmp_path / "got"))
    assert len(peer.cut_get_at) == 20 - (1 + EAGER.attempts)


def test_a_wrong_byte_is_found_before_the_rest_comes(
    peer: Peer, client: Client, tmp_path: Path, events: list[Event]
) -> None:
    peer.files["f"] = Stored(LONG)
    peer.corrupt_gets, peer.corrupt_at = 1, 2 * BLOCK + 7
    client.get_file("f", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == LONG
    assert get_offsets(peer) == [0, 2 * BLOCK]
    assert "f: bytes were changed on the way" in notes(events)


@pytest.mark.parametrize("told", ["00" * 32, "00" * 31, "zz"])
def test_digests_of_blocks_that_did_not_come(told: str, tmp_path: Path) -> None:
    part = PartFile(str(tmp_path / "got"), "here")
    client = Client("forkd+plain://alice@127.0.0.1:1")
    fetch = Fetch(client._session, "f", part, check=True)
    try:
        with _Answer(fetch, 0) as answer:
            answer.begin(b'{"size": 9000000, "mtime": 1, "offset": 0, "length": 9000000}')
            answer.data(memoryview(bytes(1000)), b"")
            with pytest.raises(ProtocolError):
                answer.frame(f'{{"blocks": "{told}"}}'.encode())
    finally:
        part.close()


def test_another_process_resumes_a_download(
    peer: Peer, tmp_path: Path, events: list[Event]
) -> None:
    peer.files["f"] = Stored(LONG)
    never = Settings(KnownHosts(), retry=RetryPolicy(attempts=0), listener=events.append)
    target = tmp_path / "got"
    half_way(peer, never, target)
    sidecar = msgspec.json.decode(Path(part_path(str(target)) + ".json").read_bytes())
    assert sidecar["verified"] == 4 * BLOCK
    with Client(peer.base, "wonderland", never) as client:
        client.get_file("f", str(target))
    assert target.read_bytes() == LONG
    assert offsets(events) == [0, 4 * BLOCK]
    assert not Path(part_path(str(target)) + ".json").exists()


def half_way(peer: Peer, settings: Settings, target: Path) -> None:
    """A download that ends in its fifth block."""
    peer.cut_get_at = [5 * BLOCK - 1]
    with Client(peer.base, "wonderland", settings) as client, pytest.raises(LostError):
        client.get_file("f", str(target))
    assert not target.exists()


@pytest.mark.parametrize("change", ["mtime", "shorter", "longer"])
def test_a_file_that_changed_there_starts_again(
    peer: Peer, tmp_path: Path, events: list[Event], change: str
) -> None:
    peer.files["f"] = Stored(LONG)
    never = Settings(KnownHosts(), retry=RetryPolicy(attempts=0), listener=events.append)
    target = tmp_path / "got"
    half_way(peer, never, target)
    other = LONG[::-1] if change == "mtime" else BIG[:100] if change == "shorter" else LONG + b"x"
    peer.files["f"] = Stored(other, 1_700_000_001.0)
    with Client(peer.base, "wonderland", never) as client:
        client.get_file("f", str(target))
    assert target.read_bytes() == other
    assert "it changed on the server; starting again from 0" in notes(events)


def test_a_wrong_byte_is_found_and_fetched_again(
    peer: Peer, client: Client, tmp_path: Path, events: list[Event]
) -> None:
    peer.files["f"] = Stored(LONG)
    peer.corrupt_gets = 1
    client.get_file("f", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == LONG
    assert "bytes were changed on the way" in notes(events)


def test_a_byte_that_stays_wrong_is_never_published(
    peer: Peer, client: Client, tmp_path: Path
) -> None:
    peer.files["f"] = Stored(LONG)
    peer.corrupt_gets = 1000
    target = tmp_path / "got"
    target.write_bytes(b"old")
    with pytest.raises(VerifyError):
        client.get_file("f", str(target))
    assert target.read_bytes() == b"old"


def test_a_failed_download_leaves_nothing(peer: Peer, client: Client, tmp_path: Path) -> None:
    with pytest.raises(RemoteError):
        client.get_file("nope", str(tmp_path / "got"))
    assert not [name for name in os.listdir(tmp_path) if name.startswith("got")]
    with pytest.raises(LocalError, match="No such file"):
        client.get_file("nope", str(tmp_path / "missing" / "got"))


# targets that are no plain files


@pytest.mark.parametrize("size", [3, len(LONG)])
def test_devices_and_fifos_are_written_through(
    peer: Peer, client: Client, tmp_path: Path, size: int
) -> None:
    peer.files["f"] = Stored(LONG[:size])
    peer.cut_get_at = [5 * BLOCK + 1]
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(fifo.read_bytes()), daemon=True)
    reader.start()
    assert client.get_file("f", str(fifo)) == size
    reader.join(30)
    assert came == [LONG[:size]]
    assert fifo.is_fifo()
    assert client.get_file("f", "/dev/null") == size
    assert Path("/dev/null").is_char_device()
    assert not [name for name in os.listdir(tmp_path) if "forkc-part" in name]


def test_small_files_are_written_through(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write_small(str(fifo), b"content", 1.0)
    reader.join(30)
    assert came == [b"content"]
    assert fifo.is_fifo()


def test_a_device_that_gets_wrong_bytes_is_told(peer: Peer, client: Client) -> None:
    peer.files["f"] = Stored(LONG)
    peer.corrupt_gets = 1
    with pytest.raises(LocalError, match="what was written is wrong"):
        client.get_file("f", "/dev/null")
    with pytest.raises(LocalError, match="No space left"):
        client.get_file("f", "/dev/full")


@pytest.mark.parametrize("size", [3, len(LONG)])
def test_a_link_to_a_file_stays_a_link(
    peer: Peer, client: Client, tmp_path: Path, size: int
) -> None:
    peer.files["f"] = Stored(LONG[:size])
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "file"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("there/file")
    client.get_many(Plan([File(str(link), "f", size, 0.0)]))
    assert link.is_symlink()
    assert target.read_bytes() == LONG[:size]
    assert os.listdir(tmp_path / "there") == ["file"]


@pytest.mark.parametrize("kind", ["folder", "socket", "dangling", "loop"])
@pytest.mark.parametrize("size", [3, INLINE_MAX + 1])
def test_targets_that_are_refused(
    peer: Peer, client: Client, tmp_path: Path, kind: str, size: int
) -> None:
    peer.files["f"] = Stored(LONG[:size])
    target = tmp_path / kind
    match kind:
        case "folder":
            target.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(target))
        case "dangling":
            target.symlink_to("nowhere")
        case "loop":
            target.symlink_to(target)
    mode = target.lstat().st_mode
    summary = client.get_many(Plan([File(str(target), "f", size, 0.0)]))
    assert [failed.code for failed in summary.failed] == ["local"]
    assert target.lstat().st_mode == mode
    assert not (tmp_path / "nowhere").exists()


def test_two_clients_do_not_write_one_part(peer: Peer, client: Client, tmp_path: Path) -> None:
    peer.files["f"] = Stored(b"x")
    target = str(tmp_path / "got")
    part = PartFile(target, "elsewhere")
    try:
        with pytest.raises(LocalError, match="another forkc"):
            client.get_file("f", target)
    finally:
        part.close()
    client.get_file("f", target)
    assert (tmp_path / "got").read_bytes() == b"x"


def test_a_name_as_long_as_names_can_be(peer: Peer, client: Client, tmp_path: Path) -> None:
    peer.files["f"] = Stored(LONG)
    name = "é" * 127
    client.get_file("f", str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == LONG


def test_read_goes_on_after_a_break(peer: Peer, client: Client) -> None:
    peer.files["f"] = Stored(LONG)
    peer.cut_get_at = [3_000_000, 1_000_000]
    got = bytearray()
    assert client.read("f", got.extend) == len(LONG)
    assert got == LONG


# what may and what may not be done twice


def test_what_was_not_carried_out_for_sure_is_repeated(peer: Peer, client: Client) -> None:
    peer.files["a"] = Stored(b"x")
    client.connect()
    peer.leave_after_requests = [1]
    client.quota()
    client.move("a", "b")  # the connection that left would not have answered
    assert "b" in peer.files
    assert peer.connections == 2


def test_a_connection_that_ended_while_idle_is_replaced_unseen(
    peer: Peer, client: Client, events: list[Event]
) -> None:
    peer.files["a"] = Stored(b"x")
    client.quota()
    peer.hang_up()
    client.move("a", "b")
    assert "b" in peer.files
    assert not events


def test_a_password_that_took_long_to_type(peer: Peer) -> None:
    asked: list[str] = []

    def ask(url: Url) -> str:
        asked.append(url.user)
        peer.hang_up()
        return "wonderland"

    with Client(peer.base, ask, Settings(KnownHosts(), retry=RetryPolicy(attempts=0))) as client:
        assert client.quota().used == 0
        client.close()
        assert client.quota().used == 0
    assert asked == ["alice"]


def test_what_may_have_been_carried_out_is_not(peer: Peer, client: Client) -> None:
    peer.files["a"] = Stored(b"x")
    client.connect()
    peer.cut_after_requests = [0]
    with pytest.raises(LostError, match="whether it was carried out is not known"):
        client.move("a", "b")
    assert client.quota().used == 1


def test_stop_ends_a_transfer_from_another_thread(peer: Peer, big: Path) -> None:
    started = threading.Event()
    settings = Settings(KnownHosts(), listener=lambda _event: started.set())
    client = Client(peer.base, "wonderland", settings)
    peer.refuse["quota"] = ["busy"] * 1000

    def stop() -> None:
        started.wait()
        client._session.stop()

    helper = threading.Thread(target=stop)
    helper.start()
    with pytest.raises(Exception, match="stopped"):
        client.quota()
    helper.join()
    client.close()
