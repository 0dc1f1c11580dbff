"""What the commands of `forkc` do with the arguments that cli.py has read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from forkd.client import exits
from forkd.client.api import Client
from forkd.client.ask import Passwords, local_user
from forkd.client.errors import ClientError, UrlError
from forkd.client.events import Note
from forkd.client.operations import Moving, Operations
from forkd.client.retry import RetryPolicy
from forkd.client.session import Settings
from forkd.client.show import Json, Plain, Quiet, Screen
from forkd.client.upload import error_code
from forkd.client.url import Url, is_url, parse_url

if TYPE_CHECKING:
    from argparse import Namespace

    from forkd.client.trust import Trust


class Command:
    """One invocation: its arguments, its screen, its passwords."""

    def __init__(self, args: Namespace, screen: Screen) -> None:
        self.args = args
        self.screen = screen
        self.passwords = Passwords(args.password_stdin)

    def url(self, text: str) -> Url:
        """An address, the user filled in.  Raises UrlError."""
        url = parse_url(text)
        return url if url.user else url.as_user(local_user())

    def settings(self) -> Settings:
        """Trust, retries and patience as the arguments say."""
        return Settings(
            trust=self._trust(),
            retry=RetryPolicy(attempts=self.args.attempts),
            stall=self.args.timeout,
            listener=self.screen.event,
        )

    def operations(self, url: Url, password: bool = True) -> Operations:
        """Operations as the user of `url`; not logged in when without `password`."""
        client = Client(url, self.passwords.current if password else None, self.settings())
        return Operations(client, self.screen)

    def _trust(self) -> Trust | None:
        if not self.args.fingerprint and not self.args.ca:
            return None
        from forkd.client.trust import Authorities, Fingerprint

        if self.args.fingerprint:
            return Fingerprint(self.args.fingerprint)
        return Authorities(None if self.args.ca == "system" else self.args.ca)


def _put(command: Command) -> int:
    *sources, last = command.args.what
    if not sources:
        raise UrlError("put needs at least one file and the address it goes to")
    url = command.url(last)
    operations = command.operations(url)
    try:
        return operations.put(sources, url.path, Moving.of(command.args))
    finally:
        operations.client.close()


def _get(command: Command) -> int:
    *texts, target = command.args.what
    if not texts or is_url(target):
        raise UrlError("get needs at least one address and the local file or folder it goes to")
    urls = [command.url(text) for text in texts]
    statuses = []
    if len(urls) > 1 and not target.endswith("/"):
        target += "/"
    for server, group in groupby(urls, key=lambda url: url.at("")):
        operations = command.operations(server)
        try:
            paths = [url.path for url in group]
            if target == "-":
                statuses.append(_print(operations.client, paths[0], command.args.check))
            else:
                statuses.append(operations.get(paths, target, Moving.of(command.args)))
        finally:
            operations.client.close()
    return exits.of_several(statuses)


def _print(client: Client, path: str, check: bool) -> int:
    client.read(path, sys.stdout.buffer.write, check)
    sys.stdout.buffer.flush()
    return exits.OK


def _on_each(action: Action) -> Handler:
    """A command that does the same with every address it is given; one failure stops no other."""

    def handler(command: Command) -> int:
        urls = [command.url(text) for text in command.args.what]
        statuses = []
        for server, group in groupby(urls, key=lambda url: url.at("")):
            operations = command.operations(server)
            try:
                actions = [partial(action, operations, url.path, command.args) for url in group]
                statuses.append(operations.each(actions))
            finally:
                operations.client.close()
        return exits.of_several(statuses)

    return handler


def _mv(command: Command) -> int:
    source = command.url(command.args.what)
    to = command.args.to
    if is_url(to):
        target = command.url(to)
        if target.at("") != source.at(""):
            raise UrlError("mv moves on one server, as one user; use get and put between two")
        to = target.path
    operations = command.operations(source)
    try:
        return operations.mv(source.path, to, command.args.force)
    finally:
        operations.client.close()


def _quota(command: Command) -> int:
    operations = command.operations(command.url(command.args.what))
    try:
        return operations.quota()
    finally:
        operations.client.close()


def _passwd(command: Command) -> int:
    url = command.url(command.args.what)
    operations = command.operations(url, password=False)
    try:
        operations.client.connect()  # the server proves who it is before anybody types
        old = command.passwords.current(url)
        operations.client.log_in(url.user, old)
        operations.client.passwd(old, command.passwords.new(url, "FORKC_NEW_PASSWORD"))
    finally:
        operations.client.close()
    command.screen.summary({"command": "passwd"}, "the password is changed")
    return exits.OK


def _register(command: Command) -> int:
    url = command.url(command.args.what)
    operations = command.operations(url, password=False)
    try:
        if not operations.client.connect().register:
            command.screen.event(Note("this server says that it takes no registrations"))
        operations.client.register(url.user, command.passwords.new(url, "FORKC_PASSWORD"))
    finally:
        operations.client.close()
    fields: dict[str, object] = {"command": "register", "user": url.user}
    command.screen.summary(fields, f"{url.user} is registered on {url.server}")
    return exits.OK


def _run(command: Command) -> int:
    operations = command.operations(command.url(command.args.what))
    try:
        if command.args.name is None:
            return operations.commands()
        return operations.run(command.args.name)
    finally:
        operations.client.close()


def _shell(command: Command) -> int:
    from forkd.client.shell import interact

    return interact(command)


Handler = Callable[[Command], int]
Action = Callable[[Operations, str, "Namespace"], int]

_HANDLERS: dict[str, Handler] = {
    "put": _put,
    "get": _get,
    "ls": _on_each(lambda operations, path, args: operations.ls(path, args.long)),
    "stat": _on_each(lambda operations, path, _: operations.stat(path)),
    "mkdir": _on_each(lambda operations, path, args: operations.mkdir(path, args.parents)),
    "mv": _mv,
    "rm": _on_each(lambda operations, path, args: operations.rm(path, args.recursive)),
    "quota": _quota,
    "passwd": _passwd,
    "register": _register,
    "run": _run,
    "shell": _shell,
}


def make_screen(args: Namespace) -> Screen:
    """How to show things: by the arguments, else by what standard error is."""
    if args.json:
        return Json()
    if args.quiet:
        return Quiet()
    moves = args.command in ("put", "get", "shell")
    if moves and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from forkd.client.bars import Bars  # rich takes its time to load

        return Bars()
    return Plain()


def carry_out(args: Namespace) -> int:
    """Do what the arguments say; the exit status."""
    screen = make_screen(args)
    try:
        return _HANDLERS[args.command](Command(args, screen))
    except ClientError as error:
        screen.error(error_code(error), str(error))
        return exits.exit_code(error)
    except KeyboardInterrupt:
        resumes = args.command in ("put", "get")
        hint = "; repeat the command to go on where it stopped" if resumes else ""
        screen.error("interrupted", f"interrupted{hint}")
        return exits.INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has left; nothing more may be written, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.REFUSED
