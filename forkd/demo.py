"""`forkd demo`: a server that needs no root and no configuration, in one folder of its own.

Running it again keeps the data, the account and its password.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from forkd import config as configuration
from forkd.config import Config
from forkd.errors import Refusal, StartError
from forkd.units import Bytes

USER = "demo"
NATIVE_PORT = 3675
METRICS_PORT = 9367
QUOTA = Bytes(4 * 1024**3)
"""The account's own: a file of several GiB should fit."""

_TEMPLATE = """\
# Made by `forkd demo`, and kept: change it and run `forkctl reload`.
# Every key there is: see etc/forkd.toml.

[server]
state_dir = "{state}"
runtime_dir = "{runtime}"

[listen]
native = ["127.0.0.1:{port}", "unix:{runtime}/forkd.sock"]

[storage]
path = "{storage}"

[register]
enabled = true
quota = "100 MiB"

[metrics]
listen = "127.0.0.1:{metrics}"

[log]
# A line for each file would push what is shown at the start away.
transfers = false

[commands.df]
exec = ["df", "-h"]
users = ["*"]
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The demo's folder and what its configuration says."""

    folder: str
    config: Config

    @property
    def password_file(self) -> str:
        return os.path.join(self.folder, "password")


def settle(folder: str) -> Place:
    """The demo's folder, with a configuration made where there is none.

    Raises StartError, and ConfigError where somebody broke the kept configuration.
    """
    folder = os.path.abspath(folder)
    path = os.path.join(folder, "forkd.toml")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if not os.path.exists(path):
            _write(path, _text(folder), 0o644)
    except OSError as error:
        raise StartError(f"{error.filename or folder}: {error.strerror}") from None
    return Place(folder, configuration.load(path))


def ensure_account(place: Place) -> None:
    """Make the account and keep its password, unless that was done before."""
    from forkd.accounts import enrol, open_accounts
    from forkd.quota import open_ledger
    from forkd.supervisor import prepare

    prepare.prepare(place.config)
    accounts = open_accounts(place.config)
    kept = _kept_password(place)
    if accounts.get(USER) is None:
        password = kept or secrets.token_urlsafe(12)
        # The password first: an account whose password nobody knows would be of no use.
        _write(place.password_file, f"{password}\n", 0o600)
        ledger = open_ledger(place.config)
        prepare_account = enrol.for_admin(place.config, ledger, 0)
        accounts.add(USER, password, prepare=prepare_account, quota=QUOTA)
    elif kept:
        try:
            accounts.authenticate(USER, kept)
        except Refusal:  # it was changed since
            os.unlink(place.password_file)
    accounts.close()


def run_apart(task: Callable[[], None]) -> None:
    """Run a task in a process of its own, so that what it loads does not stay with the master.

    Raises StartError when it fails; what failed is on standard error.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            task()
            status = 0
        except StartError as error:
            print(f"forkd: {error}", file=sys.stderr, flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise StartError("the demo's account could not be made")


def welcome(place: Place) -> str:
    """Lines to copy into a second terminal."""
    config = place.config
    tools = os.path.dirname(os.path.abspath(sys.argv[0]))
    if not os.path.exists(os.path.join(tools, "forkc")):
        tools = os.path.join(sys.prefix, "bin")
    address = next((a for a in config.listen.native if a.family != "unix"), None)
    host = str(address) if address else "127.0.0.1"
    sample = "README.md" if os.path.exists("README.md") else config.source
    password = _kept_password(place) or "<the one you gave it>"
    taken = ""
    if address and address.port != NATIVE_PORT:
        taken = f"Port {NATIVE_PORT} was taken when it was made, so it is at {address.port}.\n"
    return f"""
forkd serves from {place.folder}.
{taken}In a second terminal:

  export PATH={shlex.quote(tools)}:"$PATH" FORKD_CONFIG={shlex.quote(config.source)}
  export U=forkd://{USER}@{host} FORKC_PASSWORD={shlex.quote(password)}
  forkc put {shlex.quote(os.path.abspath(sample))} $U/
  forkc ls $U/
  forkc run $U/ df
  forkctl status

url       forkd://{USER}@{host}/
user      {USER}
password  {password}
metrics   {f"http://{config.metrics.listen}/metrics" if config.metrics.listen else "off"}

Ctrl-C stops it; the data stays.  `forkd demo` again goes on with it.
"""


def _kept_password(place: Place) -> str:
    try:
        with open(place.password_file) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _text(folder: str) -> str:
    runtime = os.path.join(folder, "run")
    if len(os.fsencode(runtime)) > configuration.RUNTIME_DIR_MAX:
        # The names of unix sockets are short (unix(7)); this folder's path is not.
        runtime = tempfile.mkdtemp(prefix="forkd-demo-")
    return _TEMPLATE.format(
        state=_quoted(os.path.join(folder, "state")),
        runtime=_quoted(runtime),
        storage=_quoted(os.path.join(folder, "files")),
        port=_free_port(NATIVE_PORT),
        metrics=_free_port(METRICS_PORT),
    )


def _quoted(path: str) -> str:
    """A path inside a basic string of TOML."""
    return path.replace("\\", "\\\\").replace('"', '\\"')


def _free_port(wanted: int) -> int:
    """The wanted port of 127.0.0.1, or another one where that is taken."""
    for port in (wanted, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise StartError("127.0.0.1 has no free port")


def _write(path: str, text: str, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "w") as file:
        file.write(text)
    os.rename(temporary, path)
