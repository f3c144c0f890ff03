"""Photographs the page of the running stack, in both colour schemes, into docs/images.

make up ARGS=--detach && sleep 60 && make screenshot
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Error, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PARTS = ROOT / ".farthing" / "stack.json"
SETTLE_MILLISECONDS = 4000
"""The page fills itself after it has loaded."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> int:
    """Write one picture per colour scheme; 1 with a line on stderr when no stack runs or no browser is there."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return _fail("Chromium is not installed; run `make bootstrap`")
    if not PARTS.exists():
        return _fail("no stack was started here; run `make up ARGS=--detach` first")
    url = next(part["page"] for part in json.loads(PARTS.read_text(encoding="utf-8")) if part["name"] == "farthing")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # root has no sandbox to offer, and the page is our own
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for scheme in SCHEMES:
            page = chromium.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
            try:
                page.goto(url)
            except Error as error:
                return _fail(
                    f"{url} does not answer ({error.message.splitlines()[0]}); run `make up ARGS=--detach` first"
                )
            page.wait_for_timeout(SETTLE_MILLISECONDS)
            target = IMAGES / f"page-{scheme}.png"
            page.screenshot(path=target, full_page=True)
            sys.stdout.write(f"{target.relative_to(ROOT)}\n")
        chromium.close()
    return 0


def _fail(reason: str) -> int:
    sys.stderr.write(f"screenshot: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
