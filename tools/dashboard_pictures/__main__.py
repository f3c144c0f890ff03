"""``python -m tools.dashboard_pictures``: pictures of every dashboard, of the fleet that the tests build.

The same queries as Grafana would send, with its own steps and macros, go to a real Prometheus; plotly draws the
answers where Grafana would, and Chromium takes the picture. With ``--url`` another Prometheus is asked.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import sync_playwright
from plotly.offline import get_plotlyjs
from tests.alerts.real_parts import program
from tests.dashboards import grafana, world
from tools.dashboard_pictures.panels import Answer, panel_html

from farthing.dashboards.render import render_dashboards

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "docs" / "images" / "dashboards"
WIDTH: Final = 1680
GAP: Final = 8
ROW: Final = 34
"""Pixels of a row of Grafana's grid."""
STYLE: Final = """
body{margin:0;background:#111217;color:#D8D9DA;font:12px Inter,Roboto,Helvetica,Arial,sans-serif;position:relative}
h1{font-size:18px;font-weight:500;margin:14px 12px 2px} p{margin:0 12px 6px;color:#9A9EA3}
section{position:absolute;background:#181B1F;border:1px solid #25282D;border-radius:3px;overflow:hidden}
section h2{font-size:12px;font-weight:500;margin:6px 8px 2px;white-space:nowrap;overflow:hidden}
.row{position:absolute;font-size:14px;font-weight:500;left:12px}
.number{display:flex;flex-wrap:wrap;justify-content:space-evenly;align-items:center;height:calc(100% - 30px);gap:4px}
.number div{padding:4px 10px;text-align:center;border-radius:3px} .number b{font-size:24px;font-weight:500}
.number small{display:block;font-size:10px}
.bar{display:flex;align-items:center;margin:3px 8px;gap:6px} .bar span{width:34%;text-align:right;overflow:hidden;
white-space:nowrap} .bar i{flex:1;background:#22252B;height:14px} .bar u{display:block;height:14px} .bar em{width:70px}
table{width:calc(100% - 12px);border-collapse:collapse;margin:2px 6px}
th{text-align:right;color:#6E9FFF;font-weight:500} th.key{text-align:left}
td,th{padding:2px 6px;border-bottom:1px solid #25282D;white-space:nowrap}
.words{margin:4px 10px;line-height:1.5}
"""


def main() -> int:
    """Draw what is asked for; 0 when every picture was drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("uid", nargs="*", help="dashboards to draw; all by default")
    parser.add_argument("--url", help="a Prometheus to ask, such as http://127.0.0.1:9090")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the pictures")
    parser.add_argument("--hours", type=float, default=1.0, help="time range, until now")
    chosen = parser.parse_args()
    settings = world.world_settings()
    texts = render_dashboards(settings)
    chosen.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        url = chosen.url
        if url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            every = [asked for board in grafana.boards(texts) for asked in (*board.asked, *board.annotations)]
            sys.stderr.write("building six hours of 20 engines ...\n")
            built = world.build(folder, [asked.expr for asked in every], wanted=None)
            url = stack.enter_context(built.server()).url
        now = time.time()
        span = grafana.Span(now - chosen.hours * 3600, now, world.SCRAPE_SECONDS)
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=60))
        store = grafana.Store(url, span, client)
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=program("chromium"), args=["--no-sandbox"]
        )
        for board, text in zip(grafana.boards(texts), texts.values(), strict=True):
            if chosen.uid and board.uid not in chosen.uid:
                continue
            page = browser.new_page(viewport={"width": WIDTH, "height": 900})
            page.set_content(_page(json.loads(text), board, store), wait_until="load")
            page.wait_for_timeout(300)
            file = chosen.output / f"{board.uid}.jpg"
            page.screenshot(path=file, full_page=True, type="jpeg", quality=72)
            page.close()
            sys.stderr.write(f"{file}\n")
    return 0


def _page(document: dict[str, Any], board: grafana.Board, store: grafana.Store) -> str:
    options = store.options(board, {})
    column = (WIDTH - 2 * GAP) / 24
    parts, top, bottom = [], 62, 0
    for panel in document["panels"]:
        place = panel["gridPos"]
        left, above = GAP + place["x"] * column, top + place["y"] * ROW
        width, height = round(place["w"] * column - GAP), place["h"] * ROW - GAP
        bottom = max(bottom, above + height)
        if panel["type"] == "row":
            parts.append(f'<div class="row" style="top:{above + 8}px">{html.escape(panel["title"])}</div>')
            continue
        inside = panel_html(panel, list(_answers(panel, board, store, options)), width - 2, height - 28)
        parts.append(
            f'<section style="left:{left:.0f}px;top:{above}px;width:{width}px;height:{height}px">'
            f"<h2>{html.escape(panel['title'])}</h2>{inside}</section>"
        )
    return (
        f"<html><head><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f'<body style="height:{bottom + GAP}px"><h1>{html.escape(document["title"])}</h1>'
        f"<p>{html.escape(document['description'])}</p>{''.join(parts)}</body></html>"
    )


def _answers(
    panel: dict[str, Any], board: grafana.Board, store: grafana.Store, options: dict[str, list[str]]
) -> Iterator[Answer]:
    for asked in board.panels().get(panel["title"], ()):
        answer = store.ask(asked, board, {}, options)
        for labels, points in answer.series:
            yield Answer(asked.letter, _legend(asked.legend, labels), labels, points)


def _legend(form: str, labels: Mapping[str, str]) -> str:
    if not form:
        return ""
    return " ".join(re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), form).split())


if __name__ == "__main__":
    sys.exit(main())
