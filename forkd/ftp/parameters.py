"""Commands that words answer: what is told of the server, and parameters that are set."""

from __future__ import annotations

from forkd.ftp import arguments, commands, requests, words
from forkd.ftp.arguments import Command
from forkd.ftp.facts import wanted_facts
from forkd.ftp.paths import show
from forkd.ftp.replies import Negative, quoted
from forkd.ftp.requests import Request
from forkd.ftp.state import HASHES
from forkd.ftp.talk import Talk


def on_quit(talk: Talk, _: Command) -> Request:
    talk.say(221, "Goodbye.")
    return requests.Leave()


def on_noop(talk: Talk, _: Command) -> None:
    talk.say(200, "NOOP ok.")


def on_acct(talk: Talk, _: Command) -> None:
    talk.say(202, "no account but the user is needed")


def on_syst(talk: Talk, _: Command) -> None:
    talk.say(215, "UNIX Type: L8")


def on_client(talk: Talk, command: Command) -> None:
    talk.say(200, "Name=forkd;" if command.verb == "CSID" else "Noted.")


def on_help(talk: Talk, command: arguments.WithText) -> None:
    verb = command.text.upper()
    if verb == "SITE":
        on_site_help(talk, command)
        return
    if verb in commands.VERBS:
        talk.say(214, f"{verb} {commands.VERBS[verb].help}")
        return
    talk.say_lines(
        214, "These commands are known:", words.verbs(), "HELP and a command tells more."
    )


def on_site_help(talk: Talk, _: Command) -> None:
    talk.say_lines(214, "These SITE commands are known:", words.SITE_COMMANDS, "That is all.")


def on_feat(talk: Talk, _: Command) -> None:
    talk.say_lines(211, "Features:", words.features(talk.policy, talk.state), "End")


def on_opts(talk: Talk, command: arguments.Options) -> None:
    value = command.value.strip()
    match command.about:
        case "UTF8" | "UTF-8" if value.upper() in (b"", b"ON", b"NLST"):
            talk.say(200, "Names are bytes, UTF-8 where they are text.")
        case "MLST":
            talk.state.facts = wanted_facts(value)
            told = "".join(f"{fact};" for fact in talk.state.facts)
            talk.say(200, f"MLST OPTS {told}".rstrip())
        case "HASH":
            wanted = value.decode("ascii", "replace").upper()
            if wanted and wanted not in HASHES:
                raise Negative(501, f"HASH is one of {', '.join(HASHES)}")
            talk.state.hash = wanted or talk.state.hash
            talk.say(200, talk.state.hash)
        case _:
            raise Negative(501, "there is no such option")


def on_pwd(talk: Talk, _: Command) -> None:
    talk.say(257, quoted(show(talk.state.here)) + b" is the folder worked in.")


def on_type(talk: Talk, command: arguments.WithText) -> None:
    talk.state.type = command.text
    talk.say(200, f"TYPE is {command.text}.")


def on_fixed(talk: Talk, command: arguments.WithText) -> None:
    talk.say(200, f"{command.verb} is {command.text}.")


def on_rest(talk: Talk, command: arguments.WithNumber) -> None:
    talk.state.restart = command.number
    talk.say(350, f"The next transfer starts at byte {command.number}.")


def on_allo(talk: Talk, command: arguments.WithNumber) -> None:
    talk.state.allocated = command.number
    talk.say(200, f"The next upload has {command.number} bytes.")
