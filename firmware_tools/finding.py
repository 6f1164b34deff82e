"""What a tool found out about this machine, with what mends it: a table for people, JSON for programs, an exit code for both."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

Verdict = Literal["ok", "warning", "failed", "not applicable"]

MARKS: dict[str, str] = {"ok": "[green]✔[/]", "warning": "[yellow]![/]", "failed": "[red]✘[/]", "not applicable": "[dim]–[/]"}


class Finding(Struct, frozen=True):
    """One thing that was looked at. `remedy` is a command or one sentence; empty where nothing is to be done."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, remedy: str) -> Finding:
    """It works, but not as well as it could."""
    return Finding(name, "warning", found, remedy)


def failed(name: str, found: str, remedy: str) -> Finding:
    """It cannot work so."""
    return Finding(name, "failed", found, remedy)


def not_applicable(name: str, found: str) -> Finding:
    """There is nothing to look at on this machine."""
    return Finding(name, "not applicable", f"not applicable here: {found}")


def has_failed(findings: Sequence[Finding]) -> bool:
    """Whether anything cannot work: exit code 1."""
    return any(finding.verdict == "failed" for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """`{"ok": …, "findings": […]}`."""
    answer = {"ok": not has_failed(findings), "findings": findings}
    return msgspec.json.format(msgspec.json.encode(answer)).decode()


def show(findings: Sequence[Finding]) -> None:
    """Print a table, and below it one line a remedy, whole, to be copied."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for finding in findings:
        table.add_row(MARKS[finding.verdict], escape(finding.name), escape(finding.found))
    console.print(table)
    remedies = [finding for finding in findings if finding.remedy]
    if remedies:
        console.print("\nWhat to do:")
    for finding in remedies:
        console.print(f"{MARKS[finding.verdict]} {escape(finding.name)}: {escape(finding.remedy)}", soft_wrap=True)
