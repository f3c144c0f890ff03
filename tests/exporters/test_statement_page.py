"""A statement in a real browser: read on wide and narrow screens, and on paper."""

import re
from contextlib import contextmanager

import pytest
from tests.exporters.statement_cases import line, statement
from tools.statement_sample import sample_statements

from farthing.books.statement import Party
from farthing.exporters.statement import layout, render_statement

pytestmark = pytest.mark.real

SAMPLES = sample_statements()
TENANTS = SAMPLES[0]
WIDTHS = (1280, 420)
A4_POINTS = (595, 842)


@contextmanager
def opened(browser, folder, document, width=1280):
    """The file as a person opens it; fails on any console message, policy violation or request for anything else."""
    file = folder / "statement.html"
    file.write_bytes(render_statement(document, "html"))
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url == file.as_uri() else problems.append(request.url))
    try:
        page.goto(file.as_uri())
        yield page
        assert problems == []
    finally:
        context.close()


def seen(page):
    """What a person can read: visible text, with single spaces."""
    return re.sub(r"\s+", " ", page.inner_text("body"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("document", SAMPLES, ids=["tenant", "platform"])
def test_everything_is_visible_text_on_any_screen(browser, tmp_path, document, width):
    """Number, period, parties, lines with their amounts, subtotals, rounding, notes, contact; nothing sticks out."""
    with opened(browser, tmp_path, document, width) as page:
        text = seen(page)
        told = [
            document.number,
            document.period,
            "1 to 30 November 2026 (UTC)",
            document.issuer.name,
            document.recipient.name,
            document.issuer.contact,
            document.signed_by,
            "Rounding, once, to 2 decimals",
            *document.notes,
            f"farthing explain {document.number}/LINE",
        ]
        for section in layout.sections(document):
            told += [f"{section.title}, total", section.subtotal.amount]
            for group in section.groups:
                told += [group.subtotal.amount]
                told += [f"Subtotal {group.title}"] if len(section.groups) > 1 else []
        for words in told:
            assert words in text
        rows = page.get_by_test_id("line")
        assert rows.count() == len(document.lines)
        for shown, row in zip(rows.all_inner_texts(), _rows(document), strict=True):
            for words in (row.description, row.amount, *row.details):
                assert words in shown
            assert row.quantity in shown or row.quantity == "—"
        fits(page, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_and_large_amounts_stay_inside(browser, tmp_path, width):
    """A name of 200 characters without a space, a billion dollars, a thousand trillion tokens."""
    name = "x" * 200
    long = line(
        description=name, project=name, model=name, tier=name, cost_centre=name, quantity=10**15, amount_nano=-(10**18)
    )
    huge = statement(
        long,
        line(amount_nano=10**18, quantity=10**15),
        recipient=Party(name, tenant=name + "y", contact=name, cost_centre=name, address=(name,)),
        signed_by=name,
        notes=(name,),
        unpriced=(name,),
        evidence={name: "ab" * 32},
        price_versions=(name,),
        identity=((name, 10**18), ("all", 10**18)),
    )
    with opened(browser, tmp_path, huge, width) as page:
        assert "1,000,000,000.00" in seen(page)
        fits(page, width)


def fits(page, width):
    """Nothing makes the page scroll sideways, and no text leaves the sheet."""
    size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert size == [width, width]
    assert page.evaluate(CUT) == []


CUT = """() => [...document.querySelectorAll('td, th, p, dd, h1, h2, li')]
  .filter((node) => node.offsetParent && !node.closest('.hidden'))
  .filter((node) => {
    const main = document.querySelector('main').getBoundingClientRect();
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    return box.right > main.right || box.left < main.left;
  })
  .map((node) => node.textContent)"""
"""Elements whose text sticks out of the page."""


def _rows(document):
    return [row for section in layout.sections(document) for group in section.groups for row in group.rows]


def test_amounts_of_a_section_are_flush_right_with_digits_of_one_width(browser, tmp_path):
    """As columns of figures are read."""
    with opened(browser, tmp_path, TENANTS) as page:
        edges = page.evaluate("""() => [...document.querySelectorAll('.items td.sum')].map((cell) => {
          const range = document.createRange();
          range.selectNodeContents(cell);
          return Math.round(range.getBoundingClientRect().right);
        })""")
        assert len(edges) == len(TENANTS.lines)
        assert len(set(edges)) == 1
        assert "tabular-nums" in page.evaluate("getComputedStyle(document.querySelector('.sum')).fontVariantNumeric")


def test_the_plot_has_a_bar_for_each_day_in_colours_that_differ(browser, tmp_path):
    """Drawn, not only there; the style sheet passes the page's own policy."""
    with opened(browser, tmp_path, TENANTS) as page:
        drawn = page.evaluate("""() => [...document.querySelectorAll('.plot rect')].map((bar) => {
          const box = bar.getBoundingClientRect();
          return [Math.round(box.x), box.width > 3, getComputedStyle(bar).fill];
        })""")
        assert len({x for x, _, _ in drawn}) == 30
        assert all(wide for _, wide, _ in drawn)
        assert len({fill for _, _, fill in drawn}) == len({account for _, account, _ in TENANTS.days}) == 2


def test_it_prints_on_numbered_a4_pages(browser, tmp_path):
    """As long as its lines; the paper's size is the style sheet's."""
    many = statement(*(line(project=f"project {index // 20}", description=f"Line {index}") for index in range(200)))
    counts = []
    for document in (TENANTS, many):
        with opened(browser, tmp_path, document) as page:
            paper = page.pdf(prefer_css_page_size=True, print_background=True)
            assert paper.startswith(b"%PDF")
            boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", paper)
            assert {(round(float(width)), round(float(height))) for width, height in boxes} == {A4_POINTS}
            counts.append(len(re.findall(rb"/Type /Page\b", paper)))
    assert 3 <= counts[0] <= 6
    assert counts[1] > counts[0] + 3


def test_table_heads_are_repeated_and_totals_are_not(browser, tmp_path):
    """On paper a foot group would come back on every page."""
    with opened(browser, tmp_path, TENANTS) as page:
        page.emulate_media(media="print")
        read = "(name) => getComputedStyle(document.querySelector('.items ' + name)).display"
        assert page.evaluate(read, "thead") == "table-header-group"
        assert page.evaluate(read, "tfoot") == "table-row-group"
