"""A scripted peer for the client's tests: real sockets, the server's side of the wire engine.

It keeps files in memory and does what docs/protocol.md says, so far as a client can see, and it
breaks on demand: `faults` holds what goes wrong, each once.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from forkd import verbs
from forkd.digest import DIGEST_SIZE, BlockDigest, digest_of
from forkd.errors import CODES, Refusal
from forkd.protocol import BLOCK, INLINE_MAX, DataHead, Engine, Message, Role, Type, frame

GET_FRAME = 3 << 20


@dataclass
class Stored:
    data: bytes
    mtime: float = 1_700_000_000.0


@dataclass
class Partial:
    data: bytearray
    told: tuple[object, ...]


@dataclass
class Peer:
    """One server.  `base` is its address without a path; TLS is spoken when `cert` is set."""

    cert: tuple[Path, Path] | None = None
    users: dict[str, str] = field(default_factory=lambda: {"alice": "wonderland"})
    files: dict[str, Stored] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {""})
    partials: dict[str, Partial] = field(default_factory=dict)
    limit: int | None = None
    requests: list[verbs.AnyRequest] = field(default_factory=list)
    connections: int = 0
    cut_put_at: list[int] = field(default_factory=list)
    """Close the connection when a streamed upload has this many new bytes."""
    hold_put_at: int | None = None
    """Read no more than about this of each streamed upload, until it is None again."""
    cut_get_at: list[int] = field(default_factory=list)
    """Close the connection after this many bytes of one download."""
    cut_after_requests: list[int] = field(default_factory=list)
    """Close the connection (no answer) after this many requests on it, log-in not counted."""
    leave_after_requests: list[int] = field(default_factory=list)
    """Say going-away after this many requests, answer them, and close."""
    refuse: dict[str, list[str]] = field(default_factory=dict)
    """op -> codes to refuse with, one after the other."""
    corrupt_gets: int = 0
    """So many downloads get a wrong byte, their first one unless `corrupt_at` says another."""
    corrupt_at: int = 0
    tell_blocks: bool = True
    """Whether downloads with `check` tell the digests of blocks on the way."""
    commands: list[str] | None = None
    """What the answer to auth says that one may run."""
    listing: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    """Folders that are listed with these entries, whatever is there."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self.lock = threading.Lock()
        self._main = threading.Thread(target=self._accept, daemon=True)
        self._main.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def base(self) -> str:
        scheme = "forkd" if self.cert else "forkd+plain"
        return f"{scheme}://alice@127.0.0.1:{self.port}"

    def ops(self, kind: type) -> list[verbs.AnyRequest]:
        return [request for request in self.requests if isinstance(request, kind)]

    def hang_up(self) -> None:
        """End all connections, and wait until they are."""
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._main.join()
        self.hang_up()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                if self.cert:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(*self.cert)
                    sock = context.wrap_socket(sock, server_side=True)
                    self._socks.append(sock)  # the plain one is detached now
                _Talk(self, sock).run()
            except (OSError, Refusal):
                pass
            finally:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()


class _Cut(OSError):
    pass


class _Talk:
    """One connection."""

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.peer = peer
        self.sock = sock
        self.engine = Engine(Role.SERVER)
        self.user = ""
        self.count = 0
        self.left = False

    def run(self) -> None:
        while True:
            message = self.event()
            assert isinstance(message, Message), message
            request = verbs.decode_request(message.meta)
            with self.peer.lock:
                self.peer.requests.append(request)
            if not isinstance(request, (verbs.Hello, verbs.Auth)):
                self.count += 1
                self._maybe_break()
            try:
                self._do(message, request)
            except Refusal as refusal:
                self.error(message.id, refusal.code, refusal.message)

    def _maybe_break(self) -> None:
        if self.peer.cut_after_requests and self.count > self.peer.cut_after_requests[0]:
            self.peer.cut_after_requests.pop(0)
            raise _Cut
        if self.left:
            raise _Cut
        if self.peer.leave_after_requests and self.count >= self.peer.leave_after_requests[0]:
            self.peer.leave_after_requests.pop(0)
            self.left = True
            self.send(frame(Type.NOTICE, 0, {"notice": "going-away"}))

    def event(self) -> Message | DataHead:
        while True:
            event = self.engine.next_event()
            if event is not None:
                return event
            self._more()

    def _more(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise _Cut
        self.engine.receive(data)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, ident: int, meta: object, payload: bytes = b"") -> None:
        self.send(frame(Type.REPLY, ident, meta, payload))

    def error(self, ident: int, code: str, message: str) -> None:
        fault, retry = CODES[code]
        meta = {"code": code, "message": message, "retry": retry, "fault": fault.value}
        self.send(frame(Type.ERROR, ident, meta))

    def _do(self, message: Message, request: verbs.AnyRequest) -> None:
        name = type(request).__name__.lower()
        codes = self.peer.refuse.get(name)
        if codes:
            raise Refusal(codes.pop(0), f"{name} is refused by the script")
        getattr(self, f"_{name}")(message, request)

    # verbs

    def _hello(self, message: Message, request: verbs.Hello) -> None:
        meta = {"version": 1, "server": "peer", "session": "s-1", "tls": bool(self.peer.cert)}
        self.reply(message.id, {**meta, "register": True})

    def _auth(self, message: Message, request: verbs.Auth) -> None:
        if self.peer.users.get(request.user) != request.password:
            raise Refusal("auth-failed", "wrong user name or password")
        self.user = request.user
        told = {} if self.peer.commands is None else {"commands": self.peer.commands}
        self.reply(message.id, {"user": request.user, "permissions": [], "quota": None, **told})

    def _register(self, message: Message, request: verbs.Register) -> None:
        if request.user in self.peer.users:
            raise Refusal("register-refused", "the name is taken")
        self.peer.users[request.user] = request.password
        self.reply(message.id, {"user": request.user})

    def _passwd(self, message: Message, request: verbs.Passwd) -> None:
        if self.peer.users[self.user] != request.old:
            raise Refusal("auth-failed", "wrong password")
        self.peer.users[self.user] = request.new
        self.reply(message.id, {})

    def _quota(self, message: Message, request: verbs.Quota) -> None:
        used = sum(len(file.data) for file in list(self.peer.files.values()))
        self.reply(message.id, {"used": used, "limit": self.peer.limit})

    def _stat(self, message: Message, request: verbs.Stat) -> None:
        self.reply(message.id, self._entry(request.path.strip("/")))

    def _entry(self, path: str) -> dict[str, object]:
        name = path.rpartition("/")[2]
        if path in self.peer.folders:
            return {"name": name, "type": "folder", "size": 0, "mtime": 1.0}
        file = self.peer.files.get(path)
        if file is None:
            raise Refusal("not-found", f"there is no {path!r}")
        return {"name": name, "type": "file", "size": len(file.data), "mtime": file.mtime}

    def _list(self, message: Message, request: verbs.List) -> None:
        path = request.path.strip("/")
        if path in self.peer.listing:
            entries = self.peer.listing[path]
        else:
            if path not in self.peer.folders:
                raise Refusal("not-found", f"there is no {path!r}")
            inside = [
                each
                for each in [*self.peer.files, *self.peer.folders]
                if each and each.rpartition("/")[0] == path
            ]
            entries = [self._entry(each) for each in inside]
        lines = [msgspec.json.encode(entry) + b"\n" for entry in entries]
        half = len(lines) // 2
        if half:
            self.send(frame(Type.INTERIM, message.id, {}, b"".join(lines[:half])))
        self.reply(message.id, {}, b"".join(lines[half:]))

    def _mkdir(self, message: Message, request: verbs.Mkdir) -> None:
        self._make_above(request.path + "/x")
        self.reply(message.id, {})

    def _make_above(self, path: str) -> None:
        parts = path.strip("/").split("/")[:-1]
        for i in range(1, len(parts) + 1):
            self.peer.folders.add("/".join(parts[:i]))

    def _move(self, message: Message, request: verbs.Move) -> None:
        source, to = request.path.strip("/"), request.to.strip("/")
        if to in self.peer.files and not request.replace:
            raise Refusal("exists", f"{to!r} exists already")
        replaced = to in self.peer.files
        self.peer.files[to] = self.peer.files.pop(source)
        self.reply(message.id, {"replaced": replaced})

    def _remove(self, message: Message, request: verbs.Remove) -> None:
        path = request.path.strip("/")
        self._entry(path)
        inside = [each for each in self.peer.files if each == path or each.startswith(path + "/")]
        for each in inside:
            del self.peer.files[each]
        self.peer.folders.discard(path)
        self.reply(message.id, {"files": len(inside), "folders": 0})

    def _run(self, message: Message, request: verbs.Run) -> None:
        if request.command != "hello":
            raise Refusal("unknown-command", f"there is no command {request.command!r}")
        self.send(frame(Type.INTERIM, message.id, {}))
        self.send(frame(Type.DATA, message.id, {"stream": "stdout"}, b"out\n"))
        self.send(frame(Type.DATA, message.id, {"stream": "stderr"}, b"err\n"))
        self.reply(message.id, {"status": 3, "signal": None, "reason": "exit"})

    # put

    def _put(self, message: Message, request: verbs.Put) -> None:
        path = request.path.strip("/")
        folder = path.rpartition("/")[0]
        if path in self.peer.files and not request.replace:
            raise Refusal("exists", f"{path!r} exists already")
        if request.parents:
            self._make_above(path)
        elif folder not in self.peer.folders:
            raise Refusal("not-found", f"there is no {folder!r}")
        used = sum(len(file.data) for file in list(self.peer.files.values()))
        if self.peer.limit is not None and used + request.size > self.peer.limit:
            raise Refusal("quota", "the account's quota does not suffice")
        if len(message.payload) == request.size and request.size <= INLINE_MAX:
            self._publish(message.id, request, message.payload, request.digest)
        else:
            self._stream(message.id, request, path)

    def _publish(self, ident: int, request: verbs.Put, data: bytes, expected: str | None) -> None:
        digest = digest_of(data) if request.check or request.digest else None
        if digest != expected:
            raise Refusal("digest-mismatch", "the bytes that arrived are not the announced ones")
        path = request.path.strip("/")
        replaced = path in self.peer.files
        mtime = 1.0 if request.mtime is None else request.mtime
        self.peer.files[path] = Stored(bytes(data), mtime)
        self.reply(ident, {"size": len(data), "digest": digest, "replaced": replaced})

    def _stream(self, ident: int, request: verbs.Put, path: str) -> None:
        told = (request.size, request.tag, request.check)
        held = self.peer.partials.get(path)
        if held is not None and held.told != told and not request.restart:
            raise Refusal("source-changed", "a partial of another version is held")
        if held is None or request.restart:
            held = self.peer.partials[path] = Partial(bytearray(), told)
        data = held.data
        if request.check:
            del data[len(data) // BLOCK * BLOCK :]
        proof = digest_of(data) if data and request.check else None
        self.send(frame(Type.INTERIM, ident, {"offset": len(data), "proof": proof}))
        begun = len(data)
        while True:
            head = self.event()
            assert isinstance(head, DataHead), head
            while self.engine.payload_left:
                data += self.engine.take(1 << 18)
                while self.peer.hold_put_at is not None and len(data) > self.peer.hold_put_at:
                    time.sleep(0.01)
                cut = self.peer.cut_put_at
                if cut and len(data) - begun >= cut[0]:
                    cut.pop(0)
                    raise _Cut
                if self.engine.payload_left and not self.engine.buffered:
                    self._more()
            codes = self.peer.refuse.get("data")
            if codes:
                self._refuse_in_the_middle(ident, head, codes.pop(0))
                return
            if head.last:
                break
        end = verbs.decode_upload_end(head.meta)
        if end.abort:
            raise Refusal("bad-request", "the upload was ended before its time")
        if len(data) != request.size:
            raise Refusal("bad-request", "that is not the announced size")
        del self.peer.partials[path]
        self._publish(ident, request, bytes(data), end.digest)

    def _refuse_in_the_middle(self, ident: int, head: DataHead, code: str) -> None:
        self.error(ident, code, "refused in the middle")
        while not head.last:
            event = self.event()
            assert isinstance(event, DataHead), event
            assert event.id == ident
            head = event
            while self.engine.payload_left:
                if not self.engine.take(1 << 20):
                    self._more()

    # get

    def _get(self, message: Message, request: verbs.Get) -> None:
        path = request.path.strip("/")
        self._entry(path)
        if path in self.peer.folders:
            raise Refusal("not-a-file", f"{path!r} is a folder")
        file = self.peer.files[path]
        if request.offset > len(file.data):
            raise Refusal("bad-range", "the offset is beyond the end")
        whole = memoryview(file.data)[request.offset :]
        content = whole if request.length is None else whole[: request.length]
        head = {
            "size": len(file.data),
            "mtime": file.mtime,
            "offset": request.offset,
            "length": len(content),
        }
        tail = {"digest": digest_of(content)} if request.check else {}
        sent = bytes(content)
        if sent and self.peer.corrupt_gets:
            self.peer.corrupt_gets -= 1
            at = min(self.peer.corrupt_at, len(sent) - 1)
            sent = sent[:at] + bytes([sent[at] ^ 1]) + sent[at + 1 :]
        if len(sent) <= 65536:
            self.reply(message.id, {**head, **tail}, sent)
            return
        self.send(frame(Type.INTERIM, message.id, head))
        cut = self.peer.cut_get_at
        ends = cut.pop(0) if cut and len(sent) > cut[0] else None
        digest = BlockDigest() if request.check and self.peer.tell_blocks else None
        told = 0
        for at in range(0, len(sent), GET_FRAME):
            piece = sent[at : at + GET_FRAME]
            blocks = digest.blocks_after(told) if digest else b""
            told += len(blocks) // DIGEST_SIZE
            data = frame(Type.DATA, message.id, {"blocks": blocks.hex()} if blocks else None, piece)
            if ends is not None and ends <= at + len(piece):
                self.send(data[: len(data) - (at + len(piece) - ends)])
                raise _Cut
            self.send(data)
            if digest:
                digest.update(content[at : at + len(piece)])
        if digest and (blocks := digest.blocks_after(told)):
            tail["blocks"] = blocks.hex()
        self.reply(message.id, tail)


def make_certificate(folder: Path, name: str = "peer") -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1: files of certificate and key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


__all__ = ["BlockDigest", "Peer", "Stored", "make_certificate"]
