"""forkctl: the command line of whoever runs the daemon.  docs/forkctl.md describes it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from forkd.admin.exits import CtlError, Exit
from forkd.admin.grammar import parser
from forkd.admin.output import complain
from forkd.admin.site import Site
from forkd.errors import Refusal, StartError


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit code."""
    args = _parse(argv)
    site = Site(args.config, args.socket, args.json)
    try:
        code = int(args.run(site, args))
        sys.stdout.flush()
        return code
    except CtlError as error:
        for line in error.lines:
            complain(line)
        return error.code
    except Refusal as refusal:
        complain(refusal.message)
        return Exit.FAILED
    except StartError as error:
        complain(str(error))
        return Exit.FAILED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        return Exit.FAILED
    except (KeyboardInterrupt, EOFError):
        complain("interrupted")
        return Exit.INTERRUPTED
    except Exception as error:
        complain(f"a fault in forkctl itself, please report it: {type(error).__name__}: {error}")
        return Exit.FAILED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    grammar = parser()
    args, rest = grammar.parse_known_args(argv)
    # argparse takes all positional words in one go: in "quota verify --fix NAME" it leaves NAME.
    if rest and "words" in args and not any(word.startswith("-") for word in rest):
        args.words += rest
    elif rest:
        grammar.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
