"""`forkc`: the command line.  docs/forkc.md tells what people need; `--help` too."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from forkd import __version__
from forkd.client import exits
from forkd.client.api import Client
from forkd.client.arguments import add_moving, add_put_only, connection_options, mixed, moving
from forkd.client.ask import Passwords
from forkd.client.errors import ClientError, UrlError
from forkd.client.events import Note
from forkd.client.operations import Operations
from forkd.client.retry import RetryPolicy
from forkd.client.session import Settings
from forkd.client.show import Json, Plain, Quiet, Screen
from forkd.client.trust import Authorities, Fingerprint, KnownHosts, Trust
from forkd.client.upload import error_code
from forkd.client.url import Url, is_url, parse_url

_ADDRESSES = """\
addresses:
  forkd://user@host:port/path         TCP with TLS (port 3675 if left out)
  forkd+plain://user@host:port/path   plain TCP: can be read on the way
  forkd+unix://user@/socket:/path     a socket of this machine
The user may be left out: FORKC_USER, or the local user's name.
The password is asked for, or taken from FORKC_PASSWORD, or with --password-stdin
from the first line of standard input.

"""

_TARGETS = """\
the target:
  A target that ends in / or is . or .. takes everything under its own name;
  so does the target of several sources. Any other target is the new name: of a
  file, or with -r of the folder itself, whether it exists already (then what
  it holds is kept) or not. A single file also goes into a folder that exists.
  So the same command always means the same, and repeating it goes on.
"""


class Command:
    """One invocation: its arguments, its screen, its passwords."""

    def __init__(self, args: argparse.Namespace, screen: Screen) -> None:
        self.args = args
        self.screen = screen
        self.passwords = Passwords(args.password_stdin)

    def url(self, text: str) -> Url:
        """An address, the user filled in.  Raises UrlError."""
        url = parse_url(text)
        return url if url.user else url.as_user(default_user())

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

    def _trust(self) -> Trust:
        if self.args.fingerprint:
            return Fingerprint(self.args.fingerprint)
        if self.args.ca:
            return Authorities(None if self.args.ca == "system" else self.args.ca)
        return KnownHosts(say=lambda text: self.screen.event(Note(text)))


def default_user() -> str:
    """Who one is when the address names nobody."""
    try:
        return os.environ.get("FORKC_USER") or getpass.getuser()
    except (KeyError, OSError):
        raise UrlError("the address names no user, and this machine does not either") from None


def _put(command: Command) -> int:
    *sources, last = command.args.what
    if not sources:
        raise UrlError("put needs at least one file and the address it goes to")
    url = command.url(last)
    operations = command.operations(url)
    try:
        return operations.put(sources, url.path, moving(command.args))
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
                statuses.append(operations.get(paths, target, moving(command.args)))
        finally:
            operations.client.close()
    return exits.of_several(statuses)


def _print(client: Client, path: str, check: bool) -> int:
    client.read(path, sys.stdout.buffer.write, check)
    sys.stdout.buffer.flush()
    return exits.OK


def _on_each(action: Callable[[Operations, str, argparse.Namespace], int]) -> Handler:
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


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="forkc",
        allow_abbrev=False,
        description="Move files to and from a forkd server.",
        epilog=_ADDRESSES + exits.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"forkc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = connection_options()

    def add(name: str, text: str, handler: Handler) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text,
            parents=[common],
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(handler=handler)
        return made

    put = add("put", "send files and folders", _put)
    put.usage = "forkc put [OPTION...] FILE... URL"
    put.add_argument("what", nargs="+", metavar="FILE... URL", help="files, then where they go")
    get = add("get", "get files and folders", _get)
    get.usage = "forkc get [OPTION...] URL... DEST"
    get.add_argument("what", nargs="+", metavar="URL... DEST", help="DEST may be - for one file")
    for moves in (put, get):
        moves.epilog = _TARGETS
        add_moving(moves)
    add_put_only(put)
    _add_small(add)
    return parser


def _add_small(add: Callable[[str, str, Handler], argparse.ArgumentParser]) -> None:
    ls = add("ls", "list folders", _on_each(lambda ops, path, args: ops.ls(path, args.long)))
    ls.add_argument("what", nargs="+", metavar="URL")
    ls.add_argument("-l", "--long", action="store_true", help="with type, size and time")
    stat = add("stat", "tell about files or folders", _on_each(lambda ops, path, _: ops.stat(path)))
    stat.add_argument("what", nargs="+", metavar="URL")
    mkdir = add(
        "mkdir", "make folders", _on_each(lambda ops, path, args: ops.mkdir(path, args.parents))
    )
    mkdir.add_argument("what", nargs="+", metavar="URL")
    mkdir.add_argument("-p", "--parents", action="store_true", help="those above too")
    mv = add("mv", "move or rename", _mv)
    mv.add_argument("what", metavar="URL")
    mv.add_argument("to", metavar="TO", help="a path or address; ending in / for into a folder")
    mv.add_argument("-f", "--force", action="store_true", help="replace a file of that name")
    rm = add(
        "rm",
        "remove files or folders",
        _on_each(lambda ops, path, args: ops.rm(path, args.recursive)),
    )
    rm.add_argument("what", nargs="+", metavar="URL")
    rm.add_argument("-r", "--recursive", action="store_true", help="folders with all in them")
    quota = add("quota", "tell what is used and free", _on_each(lambda ops, _p, _a: ops.quota()))
    quota.add_argument("what", nargs=1, metavar="URL")
    for name, text, handler in (
        ("passwd", "change the password", _passwd),
        ("register", "make an account", _register),
        ("run", "run a command that the server's administrator named", _run),
        ("shell", "work on a server interactively", _shell),
    ):
        made = add(name, text, handler)
        made.add_argument("what", metavar="URL")
        if name == "run":
            made.add_argument(
                "name", nargs="?", metavar="NAME", help="without one, lists those that one may run"
            )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; options may stand anywhere.  Exits when they make no sense."""
    parser = build_parser()
    made = _commands(parser).get(argv[0]) if argv else None
    if made is None:
        return parser.parse_args(argv)
    args = mixed(made, argv[1:])
    args.command = argv[0]
    return args


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of the commands: the one of all cannot mix options with several sources."""
    [found] = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return found


def make_screen(args: argparse.Namespace) -> Screen:
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command `forkc`; its exit status."""
    args = parse(sys.argv[1:] if argv is None else argv)
    screen = make_screen(args)
    try:
        return int(args.handler(Command(args, screen)))
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


if __name__ == "__main__":
    sys.exit(main())
