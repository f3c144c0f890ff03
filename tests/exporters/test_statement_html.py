"""A statement for people, as text: what it says, how it adds up, and that no name can change it."""

import base64
import hashlib
import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exporters.statement_cases import line, recorded, statement
from tools.statement_sample import sample_statements

from farthing.books.statement import ADJUSTMENT, PLATFORM, RECOVERY, SHARED_COST, USAGE, Party
from farthing.domain import conventions as c
from farthing.exporters.statement import layout, render_statement, wording

TENANTS, PLATFORMS = SAMPLES = sample_statements()
EVIL = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x00{{ 7*7 }}"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Reader(HTMLParser):
    """Tags, attributes, cells of table rows, and all text; style and title apart."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.attributes, self.rows, self.text, self.open = set(), set(), [], [], []
        self.feed(render_statement(document, "html").decode())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text.append(data)
        if "tr" in self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data

    def cell(self, start):
        """The last cell of the first row that begins so."""
        return next(row[-1].strip() for row in self.rows if row[0].strip().startswith(start))

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def value(shown):
    return Decimal(shown.replace(",", "").replace("\u2212", "-").replace("USD", ""))


def test_a_recordings_statements_show_every_cost_though_all_are_cents():
    """Four minutes of an H100 come to 24 cents; no line reads 0.00, and exact totals are the bill."""
    facts, documents = recorded("h100-llama8b-vllm0.26")
    exact = Decimal(0)
    for document in documents:
        page = Reader(document)
        for one in document.lines:
            shown = next(row[-1] for row in page.rows if row[0] == str(one.line))
            assert (value(shown) == 0) == (one.amount_nano == 0)
        exact += value(page.cell("Sum of all priced lines, exact"))
    assert exact == Decimal(facts.bill_nano).scaleb(-9)


def test_a_statement_says_whose_it_is_when_it_is_from_and_who_signed():
    """What any invoice has."""
    words = Reader(TENANTS).words
    for told in (
        "Statement 2026-11-0001",
        "Northwind AI Platform",
        "Acme Search Ltd",
        "CC-4100",
        "1 to 30 November 2026 (UTC)",
        "3 December 2026, 09:14 UTC",
        "Dana Whitlock, platform controller",
        "Rate card",
        "ai-platform-billing@northwind.example",
        "farthing explain 2026-11-0001/LINE",
        "2026-Q4+",
    ):
        assert told in words


def test_lines_subtotals_sections_and_total_add_up_as_shown():
    """To half of the last digit for each amount that is summed."""
    document = TENANTS
    shown = layout.sections(document)
    assert [section.key for section in shown] == [USAGE, SHARED_COST, ADJUSTMENT]
    assert [group.title for group in shown[0].groups] == ["search", "support"]
    half = Decimal("0.005")
    for section in shown:
        for group in section.groups:
            amounts = [value(row.amount) for row in group.rows if row.priced]
            assert abs(sum(amounts) - value(group.subtotal.amount)) <= half * (len(amounts) + 1)
        subtotals = [value(group.subtotal.amount) for group in section.groups]
        assert abs(sum(subtotals) - value(section.subtotal.amount)) <= half * (len(subtotals) + 1)
    page = Reader(document)
    total, rounding = (value(page.cell(start)) for start in ("Sum of all priced lines, exact", "Rounding, once"))
    assert rounding != 0
    assert total + rounding == value(page.cell("Total payable")) == Decimal(document.payable_nano).scaleb(-9)


def test_the_coding_table_has_each_cost_centre_and_account_once():
    """And all of the total."""
    rows = layout.coding(TENANTS)
    assert [(centre, account) for centre, account, _ in rows] == [
        ("CC-4100", "6450"),
        ("CC-4110", "6410"),
        ("CC-4110", "6420"),
        ("CC-4180", "6410"),
        ("CC-4180", "6420"),
    ]
    assert sum(share.nano for _, _, share in rows) == TENANTS.total_nano
    assert [share.unpriced for _, _, share in rows] == [0, 0, 0, 1, 1]


def test_unpriced_is_a_warning_and_a_word_never_a_zero():
    """In the box, in the line, beside every sum that lacks it."""
    document = TENANTS
    page = Reader(document)
    assert "Not everything has a price" in page.words
    for one in document.lines:
        shown = next(row for row in page.rows if row[0] == str(one.line))[-1]
        assert (shown == "unpriced") == (one.amount_nano is None)
    assert page.cell("mistral-small-24b") == "—"
    assert "+ 2 unpriced" in next(row[0] for row in page.rows if row[0].startswith("Subtotal support"))
    alone = statement(line(amount_nano=None, unit_price_nano=None))
    (section,) = layout.sections(alone)
    assert section.subtotal == layout.Subtotal("unpriced", 1)
    assert "Not everything has a price" not in Reader(statement(line())).words


def test_what_is_unpriced_is_told_once():
    """Though the document names it as a line and as an item."""
    unpriced = line(amount_nano=None, unit_price_nano=None, description="mistral: 9 requests, unpriced")
    page = render_statement(
        statement(unpriced, unpriced=(unpriced.description, "engine edge: no price")), "html"
    ).decode()
    box = page[page.index("<aside") : page.index("</aside>")]
    assert box.count("mistral: 9 requests, unpriced") == 1
    assert box.count("engine edge: no price") == 1


def test_an_adjustment_shows_its_service_period_and_a_true_minus_sign():
    """In a column of its own."""
    page = Reader(statement(line(section=ADJUSTMENT, service_period="2026-10", amount_nano=-2_080_189_360)))
    row = next(row for row in page.rows if row[0] == "1")
    assert row[2] == "2026-10"
    assert row[-1] == "\u22122.08"
    assert [row[2] for row in Reader(TENANTS).rows if row[0] in ("31", "32")] == ["2026-10"] * 2


def test_showback_says_that_nothing_is_to_be_paid():
    """A chargeback says what is."""
    charged, shown = TENANTS, replace(TENANTS, kind="showback")
    assert "not payable" not in Reader(charged).words
    assert "Total payable" in Reader(charged).words
    words = Reader(shown).words
    assert "Showback statement" in words
    assert "For information, not payable" in words
    assert "Total payable" not in words


def test_the_platforms_statement_has_the_identity_with_two_equal_sides():
    """What is to be explained, and what it became, to the nano."""
    document = PLATFORMS
    page = Reader(document)
    left, right = page.cell("= Cost settled in the period"), page.cell("= Sum of what it became")
    assert left == right
    assert value(left) == Decimal(sum(nano for _, nano in document.identity[:3])).scaleb(-9)
    assert {section.key for section in layout.sections(document)} == {PLATFORM, RECOVERY, ADJUSTMENT}
    assert "Total borne by the platform" in page.words
    assert "identity" not in render_statement(TENANTS, "html").decode()


@pytest.mark.parametrize(
    ("amounts", "sizes"),
    [([5, 10, -3, 12, 0], (3, 2)), ([0, 10, 0, 0, 10], (3, 2)), ([4, 4], (1, 1)), ([1, 2], (2,)), ([], (0,))],
)
def test_an_identity_is_divided_where_its_sides_are_equal(amounts, sizes):
    """After the three of the left side, if they are; an unequal one is shown whole."""
    parts = layout.sides([(str(index), nano) for index, nano in enumerate(amounts)])
    assert tuple(len(part) for part in parts) == sizes


def test_a_name_cannot_change_the_page():
    """In any field that a person or a tenant writes, markup is text, and so are template and style."""
    hostile = line(**dict.fromkeys(("description", "project", "model", "tier", "unit", "reason", "cost_centre"), EVIL))
    party = Party(EVIL, tenant=EVIL, address=(EVIL,), contact=EVIL, cost_centre=EVIL)
    document = statement(
        replace(hostile, method=EVIL, gl_account=EVIL, account=EVIL, section=EVIL, phase=EVIL),
        hostile,
        issuer=party,
        recipient=party,
        signed_by=EVIL,
        notes=(EVIL,),
        unpriced=(EVIL,),
        days=(("2026-11-02", EVIL, 5),),
        identity=((EVIL, 1),),
        evidence={EVIL: EVIL},
        fit_errors=((EVIL, EVIL, 0.1),),
        price_versions=(EVIL,),
        number=EVIL,
        period=EVIL,
        currency=EVIL,
        pricing=EVIL,
    )
    harmless = Reader(TENANTS)
    page = Reader(document)
    assert page.open == []
    assert page.tags <= harmless.tags | {"aside"}
    assert page.attributes <= harmless.attributes
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7*7 }}" in page.words
    text = render_statement(document, "html").decode()
    assert "\u202e" not in text
    assert "\x00" not in text
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    assert style.count("@bottom-left") == 2
    assert text.count("</style>") == text.count("<style") == 1


def test_the_page_loads_and_runs_nothing_and_its_policy_allows_only_its_style():
    """No script, no style attribute, no reference to any file or host."""
    for document in SAMPLES:
        page, text = Reader(document), render_statement(document, "html").decode()
        assert not page.tags & {"script", "link", "img", "iframe", "object", "base", "form", "foreignobject"}
        assert not page.attributes & {"style", "src", "href", "xlink:href", "onload", "onclick"}
        style = text[text.index("<style>") + 7 : text.index("</style>")]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"default-src &#39;none&#39;; style-src &#39;sha256-{digest}&#39;" in text
        assert "url(" not in style
        assert "@import" not in style


def test_every_account_section_and_method_has_a_name_and_accounts_a_colour():
    """A new one is shown by its own name, but finance should not read identifiers."""
    style = render_statement(TENANTS, "html").decode()
    assert set(wording.ACCOUNTS) == {*c.BOOK_ACCOUNTS, c.WIP}
    assert set(wording.METHODS) == set(c.METHODS)
    assert set(wording.PHASES) == set(c.PHASES)
    assert set(wording.SECTIONS) == set(wording.SECTION_INTRODUCTIONS)
    for account in wording.ACCOUNTS:
        assert f".of-{account} " in style


def test_details_do_not_repeat_the_description():
    """Model and tier are said once; the method always."""
    (section,) = layout.sections(
        statement(
            line(description="llama, batch tier: output", tier="batch", method="modelled,estimated"),
            line(description="Output", tier="batch", service_period="2026-10"),
        )
    )
    first, second = section.groups[0].rows
    assert first.details == ("modelled, estimated",)
    assert second.details == ("llama", "tier batch", "modelled", "service period 2026-10")


def test_beyond_eight_models_the_rest_is_one_row():
    """Which keeps their sum."""
    document = statement(*(line(model=f"m{index:02d}", amount_nano=10**9 * (index + 1)) for index in range(12)))
    rows = layout.shares(document, layout.by_model)
    assert [row.title for row in rows[-2:]] == ["m04", "4 others"]
    assert sum(row.nano for row in rows) == document.total_nano
    nine = statement(*(line(model=f"m{index}") for index in range(9)))
    assert len(layout.shares(nine, layout.by_model)) == 9


def test_long_evidence_is_cut_and_says_so():
    """A fleet's page stays short; the JSON has all."""
    document = statement(line(), evidence={f"boot-{index:03d}": "ab" * 32 for index in range(60)})
    words = Reader(document).words
    assert "boot-023" in words
    assert "boot-024" not in words
    assert "36 more are in the JSON" in words


def test_a_statement_without_lines_is_a_statement():
    """Of a tenant whose only work was taken back, say."""
    words = Reader(statement()).words
    assert "There are no lines in this period." in words
    assert "0.00" in words


LINES = st.builds(
    line,
    section=st.sampled_from([USAGE, SHARED_COST, ADJUSTMENT, "new"]),
    project=st.sampled_from(["", "search", "support"]),
    model=st.text(max_size=5),
    amount_nano=st.none() | st.integers(-(10**18), 10**18),
    quantity=st.none() | st.integers(-(10**15), 10**15),
    unit_price_nano=st.none() | st.integers(0, 10**12),
    cost_centre=st.sampled_from(["", "CC-1"]),
)


@given(st.lists(LINES, max_size=12))
def test_no_line_is_left_out_and_no_nano_lost(lines):
    """Whatever section, project or model: all lines are on the page, all sums are the total."""
    document = statement(*lines)
    rows = [row for section in layout.sections(document) for group in section.groups for row in group.rows]
    assert sorted(row.line for row in rows) == [one.line for one in document.lines]
    for sums in (
        layout.summary(document),
        layout.shares(document, layout.by_model),
        layout.shares(document, layout.by_cost_type),
        [share for _, _, share in layout.coding(document)],
    ):
        assert sum(share.nano for share in sums) == document.total_nano
        assert sum(share.unpriced for share in sums) == sum(one.amount_nano is None for one in lines)
    assert render_statement(document, "html").count(b'data-testid="line"') == len(lines)
