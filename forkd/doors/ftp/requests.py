"""Requests on files and folders: what each of them does with the core."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from forkd.doors.ftp import telling
from forkd.doors.ftp.changes import Reshaping
from forkd.doors.ftp.context import Context, Task
from forkd.doors.ftp.hashing import Hashing
from forkd.doors.ftp.landing import Plan, source_of
from forkd.doors.ftp.listing import SendingList, TellingList, item_of
from forkd.doors.ftp.receiving import Receiving
from forkd.doors.ftp.sending import Sending
from forkd.errors import Refusal
from forkd.ftp import requests
from forkd.ftp.address import epsv_reply, pasv_reply
from forkd.ftp.facts import Item, facts_line, stamp
from forkd.ftp.replies import Negative, quoted
from forkd.ftp.requests import OnPath, Request
from forkd.listen import address_for
from forkd.serving.admission import Login
from forkd.storage.names import check_parts, show
from forkd.storage.tree import Parts


def carry_out(context: Context, request: Request) -> Task | None:
    """Answer the request, or give the task that does.  Raises Refusal, Negative, OSError."""
    login = context.require_login()
    if isinstance(request, _TRANSFERS):
        try:
            return _transfer(context, login, request)
        except BaseException:
            context.data.close()
            raise
    match request:
        case requests.Digest():
            return Hashing(context, login, request)
        case requests.Tell("WHO"):
            return telling.TellingWho(context, login)
        case requests.Rename():
            return _rename(context, login, request)
        case OnPath():
            check_parts(request.path)
            return _ON_PATH[request.verb](context, login, request)
        case _:
            _answer(context, login, request)
    return None


_TRANSFERS = (
    *(requests.Retrieve, requests.Store, requests.Append, requests.StoreUnique),
    requests.Listing,
)
"""What uses up the data connection that was arranged, whether it comes to that or not."""


def _transfer(context: Context, login: Login, request: Request) -> Task:
    match request:
        case requests.Retrieve():
            return Sending(context, login, request)
        case requests.Store():
            return Receiving(context, login, Plan(request.path, request.offset, request.announced))
        case requests.Append():
            return Receiving(context, login, Plan(request.path, None, request.announced))
        case requests.StoreUnique():
            name = request.path[-1][:200] + b"." + secrets.token_hex(4).encode()
            plan = Plan((*request.path[:-1], name), 0, request.announced, unique=True)
            return Receiving(context, login, plan)
        case requests.Listing():
            kind = TellingList if request.form == "STAT" else SendingList
            return kind(context, login, request)
        case _:
            raise TypeError(request)


def _answer(context: Context, login: Login, request: Request) -> None:
    talk = context.talk
    match request:
        case requests.OpenPassive():
            _open_passive(context, request)
        case requests.UseActive():
            context.data.aim(request.endpoint)
            talk.finish(200, "Data goes there.")
        case requests.SetTime():
            login.demand("write")
            login.files.tree.set_mtime(check_parts(request.path), request.mtime)
            kept = login.files.tree.look(request.path).mtime  # not every time can be
            path = b"/" + b"/".join(request.path)
            talk.finish(213, f"Modify={stamp(kept)}; ".encode() + path)
        case requests.SetMode():
            login.demand("replace")
            login.files.tree.set_mode(check_parts(request.path), request.mode)
            talk.finish(200, "The mode is set.")
        case requests.Tell("QUOTA"):
            telling.tell_quota(context, login)
        case _:
            raise Negative(502, "that is not implemented")


# the data connection


def _open_passive(context: Context, request: requests.OpenPassive) -> None:
    data, settings = context.data, context.settings.config
    protocol = data.protocol
    if request.protocol not in (None, protocol):
        raise Negative(522, f"Network protocol not supported, use ({protocol})")
    if request.extended:
        context.talk.finish(229, epsv_reply(data.listen(settings.passive_ports)))
        return
    host = address_for(data.peer_host, settings.masquerade_address) or data.local_host
    if ":" in host:
        raise Negative(425, "PASV knows IPv4 only: say EPSV")
    context.talk.finish(227, pasv_reply(host, data.listen(settings.passive_ports)))


# folders


def _enter(context: Context, login: Login, request: OnPath) -> None:
    if login.files.tree.look(request.path).type != "folder":
        raise Refusal("not-a-folder", f"{show(request.path)!r} is not a folder")
    context.talk.moved_to(request.path)


def _make_folder(context: Context, login: Login, request: OnPath) -> Task:
    login.demand("mkdir")
    parts = _named(request.path)
    tree = login.files.tree
    made = quoted(b"/" + b"/".join(parts)) + b" is made."
    return Reshaping(context, lambda: tree.make_folder(parts, False), [parts[:-1]], (257, made))


def _remove_folder(context: Context, login: Login, request: OnPath) -> Task:
    login.demand("delete")
    parts = _named(request.path)
    files, ticket = login.files, login.files.removing_folder(parts)
    return Reshaping(
        context,
        lambda: files.remove_folder(parts, ticket),
        [parts[:-1]],
        (250, "It is removed."),
        ticket,
    )


# files


def _remove_file(context: Context, login: Login, request: OnPath) -> Task:
    """Where there is no file but an interrupted upload of the name, that is removed."""
    login.demand("delete")
    parts, files = _named(request.path), login.files
    removal = files.removing(parts)

    def remove() -> None:
        try:
            files.remove(removal)
        except Refusal as refusal:
            if refusal.code != "not-found" or not files.drop_held(source_of(parts), parts):
                raise

    return Reshaping(context, remove, [parts[:-1]], (250, "It is removed."), removal.ticket)


def _begin_rename(context: Context, login: Login, request: OnPath) -> None:
    login.demand("move")
    login.files.tree.stat_here(_named(request.path))
    context.talk.renaming(request.path)


def _rename(context: Context, login: Login, request: requests.Rename) -> Task:
    login.demand("move")
    parts, to = _named(check_parts(request.path)), _named(check_parts(request.to))
    files, may_replace = login.files, login.allows("replace")
    ticket = files.moving(parts, to)
    return Reshaping(
        context,
        lambda: files.move(parts, to, may_replace, ticket),
        [parts[:-1], to[:-1]],
        (250, "It is renamed."),
        ticket,
    )


def _named(parts: Parts) -> Parts:
    if not parts:
        raise Refusal("denied", "this is the account's folder itself")
    return parts


# facts


def _size(context: Context, login: Login, request: OnPath) -> None:
    item = _file_or_held(context, login, request.path)
    if item.kind != "file":
        raise Refusal("not-a-file", f"{show(request.path)!r} is not a file")
    context.talk.finish(213, str(item.size))


def _facts(context: Context, login: Login, request: OnPath) -> None:
    item = _file_or_held(context, login, request.path)
    line = facts_line(item, context.talk.state.facts, login.account.permissions)
    context.talk.say_lines(250, "Listing", [line], "End")
    context.talk.finish()


def _file_or_held(context: Context, login: Login, path: Parts) -> Item:
    """What is there; where nothing is, or `resume` wants it so, the account's own upload.

    Who may not look at files may still go on with his own.
    """
    if not login.allows("write"):
        login.demand("list")
    shown = b"/" + b"/".join(path)
    try:
        login.demand("list")
        item = item_of(login.files.tree.look(path), shown)
    except Refusal as refusal:
        if refusal.code not in ("not-found", "denied") or not login.allows("write"):
            raise
        held = login.files.held(source_of(path), path)
        if held is None:
            raise
        return Item(shown, "file", held.size, held.mtime, 0o600, "")
    prefer_held = context.settings.config.resume == "partial" and login.allows("write")
    if item.kind == "file" and prefer_held:
        held = login.files.held(source_of(path), path)
        if held is not None:
            return Item(shown, "file", held.size, held.mtime, item.mode, item.unique)
    return item


def _modified(context: Context, login: Login, request: OnPath) -> None:
    login.demand("list")
    context.talk.finish(213, stamp(login.files.tree.look(request.path).mtime))


def _available(context: Context, login: Login, _: OnPath) -> None:
    context.talk.finish(213, str(telling.room(login)))


_Answer = Callable[[Context, Login, OnPath], Task | None]
_ON_PATH: dict[str, _Answer] = {
    "AVBL": _available,
    "CWD": _enter,
    "DELE": _remove_file,
    "MDTM": _modified,
    "MKD": _make_folder,
    "MLST": _facts,
    "RMD": _remove_folder,
    "RNFR": _begin_rename,
    "SIZE": _size,
}
