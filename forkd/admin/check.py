"""forkctl check: would this configuration be accepted, by a start and by a reload?"""

from __future__ import annotations

import argparse
import os

from forkd import controlmessages, reports
from forkd.admin import output
from forkd.admin.controlclient import NotRunningError
from forkd.admin.exits import CtlError, Exit
from forkd.admin.results import Check
from forkd.admin.site import Site
from forkd.errors import ConfigError
from forkd.supervisor import preflight


def check(site: Site, args: argparse.Namespace) -> int:  # noqa: ARG001
    """Exit code 1 when something is wrong.  What the file says is looked at here, as by
    `forkd check-config`; a running daemon that serves it tries it, too."""
    path = site.path()
    problems, warnings = [], []
    try:
        if path is not None:
            warnings = preflight.load(os.path.abspath(path), preflight.certificate).warnings
    except ConfigError as error:
        problems = error.problems
    told = _ask(site, path)
    found = Check(config=path or "", problems=problems, warnings=warnings, daemon=told)
    output.show(site.json, found, lambda: _text(found))
    wrong = list(dict.fromkeys([*problems, *(told.problems if told else [])]))
    for problem in wrong:
        output.complain(problem)
    return Exit.FAILED if wrong else Exit.OK


def _ask(site: Site, path: str | None) -> reports.Checked | None:
    """What the daemon says that serves this very file; None where none does."""
    try:
        told = site.control().get(controlmessages.Check(), reports.Checked, timeout=None)
    except NotRunningError:
        return None
    except CtlError as error:
        if error.code != Exit.CANNOT_TELL:
            raise
        for line in error.lines:
            output.complain(f"the daemon could not be asked: {line}")
        return None
    same = os.path.realpath(told.config) == os.path.realpath(path) if path else not told.config
    return told if same else None


def _text(found: Check) -> str:
    name = found.config or "the built-in defaults"
    lines = [f"{name}: {'refused' if found.problems else 'ok'}"]
    lines += [f"warning: {warning}" for warning in found.warnings]
    if found.daemon is None:
        lines.append("no running daemon serves it, so whether its addresses are free was not tried")
    else:
        verdict = "would refuse it" if found.daemon.problems else "would accept it"
        lines.append(f"the running daemon {verdict}")
        known = {f"warning: {warning}" for warning in found.warnings}
        lines += [note for note in found.daemon.notes if note not in known]
    return "\n".join(lines)
