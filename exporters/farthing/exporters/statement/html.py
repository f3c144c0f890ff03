"""A statement as one HTML file: for the screen, and for A4 with page numbers and repeated table heads.

The file loads nothing and runs nothing; its own policy allows its style sheet alone, by hash. Every value is escaped by
the template engine, and characters that would reorder text are replaced, since tenants name themselves.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from farthing.books.statement import PLATFORM_TENANT, Statement, encode_statement, sha256_of
from farthing.domain import conventions as c
from farthing.exporters.statement import layout, plots, wording
from farthing.exporters.statement.figures import count, day, exact, moment, money, printable, span

__all__ = ["statement_html"]

PACKAGE: Final = "farthing.exporters.statement"
TEMPLATE: Final = "statement.html.j2"
STYLE: Final = "statement.css"
MOST_LISTED: Final = 24
"""Fits, prices and digests that are listed; the JSON has all."""
SECOND_NS: Final = 1_000_000_000


def statement_html(statement: Statement) -> bytes:
    """The file, in UTF-8."""
    sha256 = sha256_of(encode_statement(statement))
    statement = _printable(statement)
    style = _style(statement)
    unpriced = [line for line in statement.lines if line.amount_nano is None]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            statement=statement,
            # a style sheet of ours, in which the one foreign word is escaped by _css_string
            style=Markup(style),  # noqa: S704  # nosec B704
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
            words=wording,
            title=_title(statement),
            purpose=_purpose(statement),
            payable_title=_payable_title(statement),
            is_charge=statement.kind != wording.SHOWBACK and not _is_platforms(statement),
            sha256=sha256,
            payable=money(statement.payable_nano, statement.decimals),
            places=layout.line_places(statement),
            summary=layout.summary(statement),
            sections=layout.sections(statement),
            coding=layout.coding(statement),
            unpriced_lines=unpriced,
            unpriced_items=[item for item in statement.unpriced if item not in {line.description for line in unpriced}],
            identity=[(side, sum(nano for _, nano in side)) for side in layout.sides(statement.identity)],
            methods=_methods(statement),
            most=MOST_LISTED,
            **_plots(statement),
        )
    )
    return text.encode()


def _is_platforms(statement: Statement) -> bool:
    return statement.recipient.tenant == PLATFORM_TENANT


def _title(statement: Statement) -> str:
    if _is_platforms(statement):
        return "Platform statement"
    return "Showback statement" if statement.kind == wording.SHOWBACK else "Statement"


def _purpose(statement: Statement) -> str:
    if _is_platforms(statement):
        return "What no tenant is charged"
    return "For information, not payable" if statement.kind == wording.SHOWBACK else "Internal charge, payable"


def _payable_title(statement: Statement) -> str:
    if _is_platforms(statement):
        return "Total borne by the platform"
    return "Total for information, not payable" if statement.kind == wording.SHOWBACK else "Total payable"


def _plots(statement: Statement) -> dict[str, Any]:
    """The daily plot with its legend, and the sums by cost type and by model with their bars.

    A table of one row would say what the total says.
    """
    first, last = _iso_day(statement.start_ns), _iso_day(max(statement.start_ns, statement.end_ns - 1))
    accounts = {account for _, account, nano in statement.days if nano}
    legend = [
        (plots.swatch(account), wording.ACCOUNTS.get(account, account))
        for account in sorted(accounts, key=lambda name: (plots.rank(name), name))
    ]
    tables = []
    for heading, by in (("By what it paid for", layout.by_cost_type), ("By model", layout.by_model)):
        rows = layout.shares(statement, by)
        if len(rows) < 2:
            continue
        largest = max((abs(row.nano) for row in rows), default=0)
        tables.append((heading, [(row, plots.bar(row.nano, largest)) for row in rows]))
    return {
        "daily": plots.daily_plot(statement.days, first, last, statement.currency),
        "legend": legend,
        "share_tables": tables,
    }


def _methods(statement: Statement) -> list[tuple[str, str]]:
    """The methods that the lines name, each with what it means, the firmest first."""
    used = {word.strip() for line in statement.lines for word in line.method.split(",")}
    return [(method, wording.METHODS[method]) for method in c.METHODS if method in used]


def _style(statement: Statement) -> str:
    """The style sheet, with the page's foot, which CSS alone can number."""
    foot = f'{_css_string(statement.issuer.name)} " \\b7  " {_css_string(f"{_title(statement)} {statement.number}")}'
    return f"{_style_sheet()}\n@page {{ @bottom-left {{ content: {foot}; }} }}\n"


def _css_string(text: str) -> str:
    """A CSS string that holds any text: everything but letters and digits of ASCII as an escape (CSS Syntax 4.3.7)."""
    safe = (one if one.isascii() and one.isalnum() else f"\\{ord(one):x} " for one in text)
    return f'"{"".join(safe)}"'


@cache
def _style_sheet() -> str:
    return resources.files(PACKAGE).joinpath("templates", STYLE).read_text(encoding="utf-8").rstrip()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(count=count, day=day, exact=exact, moment=moment, money=money)
    environment.globals["span"] = span
    return environment


def _printable(statement: Statement) -> Statement:
    """The statement with every text of it free of control characters."""
    return msgspec.convert(_cleaned(msgspec.to_builtins(statement)), Statement)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def _iso_day(ns: int) -> str:
    return datetime.fromtimestamp(ns // SECOND_NS, tz=UTC).date().isoformat()
