"""Text -> the `man` macros of troff, man(7).  Lines stay below 80 bytes, as mandoc wants them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

_OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
_PLACEHOLDER = re.compile(r"\b[A-Z][A-Z0-9]*\b")
_LITERAL = re.compile(r"`([^`]+)`")


def prose(text: str) -> str:
    """A paragraph, filled.  What stands in backticks, and options, are bold."""
    parts = _LITERAL.split(" ".join(text.split()))
    return _lines("".join(_bold(part) if n % 2 else _plain(part) for n, part in enumerate(parts)))


def usage(text: str) -> str:
    """A line of a synopsis: the program and options bold, placeholders in italics."""
    words, rest = re.match(r"((?:[a-z-]+(?: |$))*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return " ".join(filter(None, (_bold(words.strip()), _marked(rest))))


def synopsis(lines: Iterable[str]) -> str:
    """Usages below each other."""
    return "\n.br\n".join(_lines(usage(line)) for line in lines)


def item(tags: Iterable[str], body: str) -> str:
    """A paragraph that hangs behind its tags, which are troff already, as the body is."""
    first, *others = tags
    return "\n".join([".TP", first, *(f".TQ\n{other}" for other in others), body])


def heading(text: str) -> str:
    return f".SS {escaped(text)}"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":", "!", "?")) else ".")


def escaped(text: str) -> str:
    """Text that is shown as it stands, such as a name or a value."""
    for character, name in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga")):
        text = text.replace(character, name)
    return text.replace("^", "\\(ha").replace("~", "\\(ti")


def _marked(text: str) -> str:
    """Options bold, placeholders in italics; what is in brackets is not torn apart."""
    pieces, at = [], 0
    for found in _OPTION.finditer(text):
        pieces += [_placeholders(text[at : found.start()]), _bold(found[0])]
        at = found.end()
    marked = "".join([*pieces, _placeholders(text[at:])])
    return re.sub(r"\[[^][]*\]", lambda bracket: bracket[0].replace(" ", "\\~"), marked)


def _placeholders(text: str) -> str:
    return _PLACEHOLDER.sub(lambda name: f"\\fI{name[0]}\\fR", escaped(text))


def _plain(text: str) -> str:
    text = text.replace("\\", "\\e")
    return _OPTION.sub(lambda option: _bold(option[0]), text)


def _bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR" if text else ""


def _lines(text: str) -> str:
    """Broken at blanks only; none begins as a request of troff does."""
    lines = textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line[0] in ".'" else line for line in lines)
