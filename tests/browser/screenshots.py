"""Pictures of all pages in light, dark and narrow, in `build/screenshots`, and those of README in `docs/images`.

They show what was really delivered, to receivers that this process has in the place of those of the samples.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser

from ..conftest import serving
from ..support.host import Host
from .samples import hostile_ways, ways
from .visit import CHROMIUM, NARROW, WIDE, Visit, chromium, visiting

ROOT = Path(__file__).parents[2]
ALL = ROOT / "build" / "screenshots"
README = {"webhooks": "webhooks", "delivery-retried": "delivery"}
"""The pages that README shows, and what their pictures are named there."""
LOOKS = {"light": ("light", WIDE), "dark": ("dark", WIDE), "narrow": ("light", NARROW)}


def main() -> None:
    if CHROMIUM is None:
        sys.exit("needs Chromium (apt install chromium)")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ALL.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for look in LOOKS:
            with _visit(browser, look) as visit:
                _take_all(visit, look)
            with _visit(browser, look) as visit:
                for name, go in hostile_ways(visit.host).items():
                    go(visit)
                    visit.page.screenshot(path=ALL / f"hostile-{name}-{look}.png", full_page=True)
    print(f"{len(list(ALL.glob('*.png')))} pictures in {ALL}")


@contextmanager
def _visit(browser: Browser, look: str) -> Iterator[Visit]:
    """A visit of a new host app; nothing in it needs Redis."""
    scheme, width = LOOKS[look]
    with TemporaryDirectory() as folder:
        make_host = partial(Host, f"sqlite:///{folder}/host.db", "redis://127.0.0.1:1/0")
        with serving(make_host) as host, visiting(browser, host, width, color_scheme=scheme) as visit:
            yield visit
        host.close()


def _take_all(visit: Visit, look: str) -> None:
    for name, go in ways(visit.host).items():
        go(visit)
        visit.page.screenshot(path=ALL / f"{name}-{look}.png", full_page=True)
        if look == "light" and name in README:
            visit.page.screenshot(path=ROOT / "docs" / "images" / f"{README[name]}.png", full_page=name == "webhooks")


if __name__ == "__main__":
    main()
