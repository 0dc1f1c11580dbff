"""The verbs on files: a request to what carries it out."""

from __future__ import annotations

from collections.abc import Callable

from forkd.doors.native import answers
from forkd.doors.native.changes import Reshaping, submit
from forkd.doors.native.context import Context, Login, Task
from forkd.doors.native.running import Running
from forkd.doors.native.upload import StreamUpload
from forkd.events.journal import UNTOLD, Ticket
from forkd.storage.commit import Folders
from forkd.storage.names import parse_file_path, parse_path
from forkd.storage.tree import Parts
from forkd.verbs import (
    AnyRequest,
    Get,
    List,
    Mkdir,
    Move,
    Put,
    Quota,
    QuotaReply,
    Remove,
    Run,
    Stat,
)


def carry_out(
    context: Context, login: Login, ident: int, request: AnyRequest, skip: Callable[[int], None]
) -> Task | None:
    """Answer the request, or give the task that does.  Raises Refusal.

    `skip` is told the id of an upload whose remaining DATA is to be ignored.
    """
    files = login.files
    match request:
        case Put():
            return StreamUpload(context, login, ident, request, skip)
        case Get():
            login.demand("read")
            return answers.get(context, login, ident, request, parse_path(request.path))
        case List():
            login.demand("list")
            return answers.Listing(context, ident, files.tree.list(parse_path(request.path)))
        case Stat():
            login.demand("list")
            context.wire.reply(ident, files.tree.stat(parse_path(request.path)))
        case Quota():
            usage = files.usage()
            context.wire.reply(ident, QuotaReply(usage.used, usage.limit))
        case Run():
            return Running(context, ident, request.command, login.account.name)
        case Mkdir():
            _make_folder(context, login, ident, request)
        case Move():
            _move(context, login, ident, request)
        case Remove():
            return _remove(context, login, ident, request)
    return None


def _make_folder(context: Context, login: Login, ident: int, request: Mkdir) -> None:
    login.demand("mkdir")
    parts = parse_file_path(request.path)

    def make() -> object:
        login.files.tree.make_folder(parts, request.parents)
        return {}

    depths = range(len(parts)) if request.parents else (len(parts) - 1,)
    _reshape(context, login, ident, [parts[:depth] for depth in depths], make)


def _move(context: Context, login: Login, ident: int, request: Move) -> None:
    login.demand("move")
    if request.replace:
        login.demand("replace")
    parts, to = parse_file_path(request.path), parse_file_path(request.to)

    ticket = login.files.moving(parts, to)

    def move() -> object:
        return {"replaced": login.files.move(parts, to, request.replace, ticket)}

    _reshape(context, login, ident, [parts[:-1], to[:-1]], move, ticket)


def _remove(context: Context, login: Login, ident: int, request: Remove) -> Task | None:
    login.demand("delete")
    files, parts = login.files, parse_file_path(request.path)
    is_folder = files.tree.stat_here(parts).type == "folder"
    if is_folder and request.recursive:

        def removed(task: answers.Removal) -> None:
            counts = {"files": task.files, "folders": task.folders}
            _reshape(context, login, ident, [parts[:-1]], lambda: counts)

        return answers.Removal(context, ident, files, parts, removed)

    if is_folder:
        ticket = files.removing_folder(parts)

        def remove_folder() -> object:
            files.remove_folder(parts, ticket)
            return {"files": 0, "folders": 1}

        _reshape(context, login, ident, [parts[:-1]], remove_folder, ticket)
        return None
    removal = files.removing(parts)

    def remove() -> object:
        files.remove(removal)
        return {"files": 1, "folders": 0}

    _reshape(context, login, ident, [parts[:-1]], remove, removal.ticket)
    return None


def _reshape(
    context: Context,
    login: Login,
    ident: int,
    touched: list[Parts],
    work: Callable[[], object],
    ticket: Ticket = UNTOLD,
) -> None:
    """Have a change of names made durable before it is answered."""

    def apply(folders: Folders) -> object:
        result = work()
        for parts in touched:
            folders.get(login.files.tree, parts)
        return result

    submit(context, [Reshaping(context, ident, apply, ticket)])
