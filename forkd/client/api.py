"""The library's face: a Client with one method for each verb, all synchronous.

    with Client("forkd://alice@example.org", password=ask) as client:
        client.put_file("disk.img", "backups/disk.img")
        print(client.quota())

Every method raises ClientError (see errors.py): RemoteError when the server refuses, LostError
when the connection cannot be had again, LocalError for files on this machine.  A Client is for one
thread; transfers of several files may use connections of their own beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import msgspec

from forkd.client.answers import Ended, Login, Part, Removed, Stored, Welcome, decode
from forkd.client.calls import Sink
from forkd.client.connection import Connection
from forkd.client.copying import Copy
from forkd.client.defaults import JOBS
from forkd.client.errors import LocalError
from forkd.client.events import nobody
from forkd.client.listing import list_folder, stat_path
from forkd.client.many import (
    Summary,
    download_file,
    download_plan,
    upload_file,
    upload_plan,
)
from forkd.client.session import Password, Session, Settings
from forkd.client.settings import client_id
from forkd.client.tree import Plan, plan_download, plan_upload, skip_present, skip_stored
from forkd.client.upload import PutOptions, inline_put, send_inline
from forkd.client.url import Url, parse_url
from forkd.protocol import INLINE_MAX
from forkd.verbs import (
    Entry,
    Get,
    Mkdir,
    Move,
    Passwd,
    Quota,
    QuotaReply,
    Register,
    Remove,
    Request,
    Run,
)

Output = Callable[[str, memoryview], None]
"""Takes a command's output: "stdout" or "stderr", and bytes that are only valid now."""


class Client:
    """One account on one server.

    `password` is a text, or a function that is asked once the server has proved who it is; without
    one, nobody is logged in, and only `register` and `log_in` are of use.
    """

    def __init__(
        self,
        url: Url | str,
        password: Password | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._session = Session(
            parse_url(url) if isinstance(url, str) else url,
            password,
            settings or Settings(),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> Url:
        """Server and user."""
        return self._session.url

    def connect(self) -> Welcome:
        """Connect (and log in) now rather than with the first request; what the server said."""
        self._session.connection()
        assert self._session.welcome is not None
        return self._session.welcome

    def close(self) -> None:
        """Close the connection.  The client may still be used: it makes a new one."""
        self._session.drop()

    # the account

    def log_in(self, user: str, password: str) -> Login:
        """Log in, or become another user.  Raises AuthError."""
        return self._session.authenticate(user, password)

    def register(self, user: str, password: str) -> None:
        """Make a new account; it is not logged in by that.  Raises RemoteError."""
        self._simple(Register(user=user, password=password), again=False)

    def quota(self) -> QuotaReply:
        """Bytes used and the limit."""
        return decode(self._simple(Quota()), QuotaReply)

    def passwd(self, old: str, new: str) -> None:
        """Change the password; reconnects use the new one."""
        self._simple(Passwd(old=old, new=new), again=False)
        self._session.use_password(new)

    # files and folders

    def put_bytes(self, data: bytes, path: str, options: PutOptions | None = None) -> Stored:
        """Store at most INLINE_MAX (1 MiB) bytes under a name.  Raises LocalError if it is more."""
        if len(data) > INLINE_MAX:
            raise LocalError(f"put_bytes takes at most {INLINE_MAX} bytes; put_file takes more")
        request = inline_put(path, data, None, options or PutOptions())
        return self._session.run(lambda connection: send_inline(connection, request, data))

    def put_file(self, local: str, path: str, options: PutOptions | None = None) -> Stored:
        """Store a file under a name, going on where an earlier attempt stopped."""
        return upload_file(self._session, local, path, _with_id(options))

    def put_many(self, plan: Plan, options: PutOptions | None = None, jobs: int = JOBS) -> Summary:
        """Store all files of a plan, over at most `jobs` connections."""
        return upload_plan(self._session, plan, _with_id(options), jobs)

    def get_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """A file's content, or a part of it, in memory."""
        collected = _Bytes()

        def get(connection: Connection) -> bytes:
            collected.content.clear()
            request = Get(path=path, offset=offset, length=length)
            connection.wait(connection.call(request, sink=collected))
            return bytes(collected.content)

        return self._session.run(get)

    def read(self, path: str, write: Callable[[memoryview], object], check: bool = True) -> int:
        """Hand a file's content to `write`, piece by piece; its size in bytes.

        After a break it goes on where it was.  Raises LocalError when the file changed meanwhile,
        and, with `check`, at the end when bytes were wrong.
        """
        return self._session.run(Copy(self._session, path, write, check, nobody))

    def get_file(self, path: str, local: str, check: bool = True) -> int:
        """Get a file, going on where an earlier attempt stopped; its size in bytes."""
        return download_file(self._session, path, local, check)

    def get_many(self, plan: Plan, check: bool = True, jobs: int = JOBS) -> Summary:
        """Get all files of a plan, over at most `jobs` connections."""
        return download_plan(self._session, plan, check, jobs)

    def plan_put(self, folder: str, path: str, follow: bool = False) -> Plan:
        """What `put_many` has to do for a whole local folder."""
        return plan_upload(folder, path, follow, self._session.tell)

    def plan_get(self, path: str, folder: str, follow: bool = False) -> Plan:
        """What `get_many` has to do for a whole remote folder."""
        return plan_download(self._session, path, folder, follow)

    def without_stored(self, plan: Plan) -> Plan:
        """An upload's plan without files that the server has with the same size and mtime."""
        return skip_stored(self._session, plan)

    def without_present(self, plan: Plan) -> Plan:
        """A download's plan without files that are here with the same size and mtime."""
        return skip_present(plan)

    def list(self, path: str = "") -> list[Entry]:
        """The entries of a folder, in no order."""
        return self._session.run(lambda connection: list_folder(connection, path))

    def stat(self, path: str = "") -> Entry:
        """One file or folder; follows symbolic links."""
        return self._session.run(lambda connection: stat_path(connection, path))

    def mkdir(self, path: str, parents: bool = False) -> None:
        """Make a folder; with `parents`, those above too, and an existing one is no error."""
        self._simple(Mkdir(path=path, parents=parents), again=parents)

    def move(self, path: str, to: str, replace: bool = False) -> None:
        """Move or rename, atomically; with `replace`, over a file that has the name."""
        self._simple(Move(path=path, to=to, replace=replace), again=False)

    def remove(self, path: str, recursive: bool = False) -> Removed:
        """Remove a file or a folder; a folder must be empty unless `recursive`."""
        request = Remove(path=path, recursive=recursive)
        return decode(self._simple(request, again=False), Removed)

    # commands

    def commands(self) -> Sequence[str] | None:
        """The names that `run` takes from this user; None when the server does not tell them."""
        self._session.connection()
        login = self._session.login
        return login.commands if login else None

    def run(self, command: str, output: Output) -> Ended:
        """Run a command that the server's administrator named; its output as it comes."""

        def action(connection: Connection) -> Ended:
            call = connection.call(Run(command=command), sink=_Streams(output))
            return decode(connection.wait(call).meta, Ended)

        return self._session.run(action, again=False)

    def _simple(self, request: Request, *, again: bool = True) -> bytes:
        return self._session.run(
            lambda connection: connection.wait(connection.call(request)).meta, again=again
        )


class _Bytes(Sink):
    """The sink of get_bytes."""

    def __init__(self) -> None:
        self.content = bytearray()

    def data(self, view: memoryview, _meta: bytes) -> None:
        self.content += view


class _Streams(Sink):
    """The sink of run."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def data(self, view: memoryview, meta: bytes) -> None:
        self._output(decode(meta, Part).stream, view)


def _with_id(options: PutOptions | None) -> PutOptions:
    chosen = options or PutOptions()
    return chosen if chosen.client else msgspec.structs.replace(chosen, client=client_id())
