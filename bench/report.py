"""Results as tables for people, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.stats import Result, Row


def figure(value: float) -> str:
    """About three digits, thousands separated."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cells(result: Result) -> list[list[str]]:
    """The head and a line for each way."""
    move, rows = result.move, result.rows()
    references = [r for r in move.references if any(r in row.ratios for row in rows)]
    priced = any(row.cpu is not None for row in rows)
    first = ["", move.unit, "min-max", *(f"x {r}" for r in references)]
    if priced:
        first.append(f"server CPU s/{move.cpu_unit}")
    return [first, *(_line(row, references, priced=priced) for row in rows)]


def _line(row: Row, references: Sequence[str], *, priced: bool) -> list[str]:
    span = f"{figure(row.low)}-{figure(row.high)}" if row.low != row.high else ""
    line = [row.label, figure(row.middle), span]
    line += [f"{row.ratios[r]:.2f}" if r in row.ratios else "1" for r in references]
    if priced:
        line.append("" if row.cpu is None else f"{row.cpu:.2f}")
    return line


def as_text(result: Result) -> str:
    """An aligned table under its title."""
    lines = cells(result)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    return "\n".join([result.move.title, *(f"  {line}" for line in shown)])


def as_markdown(result: Result) -> str:
    """The same as a Markdown table."""
    head, *lines = cells(result)
    head = [f"**{result.move.title}**", *head[1:]]
    rule = ["-", *("-:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def as_json(results: Sequence[Result], machine: dict[str, object]) -> dict[str, Any]:
    """Everything that was measured."""
    return {"machine": machine, "moves": [_json_of(result) for result in results]}


def _json_of(result: Result) -> dict[str, Any]:
    move = result.move
    return {
        "name": move.name,
        "title": move.title,
        "unit": move.unit,
        "cpu_unit": move.cpu_unit,
        "ways": {
            row.label: {
                "median": row.middle,
                "ratios": row.ratios,
                "cpu": row.cpu,
                "samples": [sample.value for sample in result.samples[row.label]],
            }
            for row in result.rows()
        },
    }
