"""What must hold of each page: whom it shuts out, what it lets in, and where it fits."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Response
from jinja2 import DictLoader
from playwright.sync_api import Page, expect

from ..support.host import Host
from .conftest import MakeVisit
from .samples import hostile_ways, ways
from .visit import NARROW, WIDE, Visit

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SMALLEST = 320
"""The width to which WCAG 2.2 has pages reflow (criterion 1.4.10), in CSS pixels."""


def violations(page: Page, rules: list[str] = RULES) -> list[str]:
    """What axe-core finds wrong with a page, and where."""
    page.wait_for_load_state()  # it measures the page, which has its text before it has its style sheet
    found = Axe().run(page, options={"runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
    return [f"{each['id']}: {', '.join(str(node['target']) for node in each['nodes'])}" for each in found]


@pytest.mark.parametrize(("color_scheme", "rules"), [("light", RULES), ("dark", ["color-contrast"])])
def test_axe_finds_nothing(site: Host, visit_as: MakeVisit, color_scheme: str, rules: list[str]) -> None:
    """No rule of axe-core for WCAG 2.2 AA, nor of good practice, is violated on any page, wide or narrow.

    Dark pages differ from light ones only in their colors.
    """
    visit = visit_as(color_scheme=color_scheme, reduced_motion="reduce")
    found: dict[str, list[str]] = {}
    for name, go in ways(site).items():
        go(visit)
        for width in (NARROW, WIDE) if color_scheme == "light" else (WIDE,):
            visit.resize(width)
            found[f"{name}, {width} px"] = violations(visit.page, rules)
    for name, each in found.items():
        print(f"axe {color_scheme}, {name}: {len(each)} violations")
    assert not {name: each for name, each in found.items() if each}


def test_nothing_is_scrolled_sideways(site: Host, visit: Visit) -> None:
    """Every page fits into a narrow window."""
    for go in ways(site).values():
        go(visit)
        visit.fits(NARROW, SMALLEST, WIDE)


RIGHT_TO_LEFT = """<!doctype html>
<html lang="en" dir="rtl"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{% block title %}{% endblock %}</title></head>
<body><header>The registry</header>{% block content %}{% endblock %}</body></html>"""


@pytest.mark.parametrize("site", [{"HUBHOOKS_LAYOUT": "registry.html"}], indirect=True, ids=["layout"])
def test_right_to_left(site: Host, visit: Visit) -> None:
    """In a layout of the host's that is read from right to left every page fits, and its menu can be used."""
    site.app.jinja_loader = DictLoader({"registry.html": RIGHT_TO_LEFT})
    for go in ways(site).values():
        go(visit)
        expect(visit.page.get_by_role("banner")).to_have_text("The registry")
        visit.fits(NARROW, WIDE)
    visit.open()
    menu = visit.menu("Mirror")
    menu.click()
    visit.fits(WIDE, NARROW)
    button, edit = menu.bounding_box(), visit.link("Edit").bounding_box()
    assert button and button["x"] < NARROW / 2, "it stands at the end of a line, which is the left"
    assert edit and edit["x"] >= 0 and edit["x"] + edit["width"] <= NARROW


TABLES = """
#content main table { display: block; margin: 3em; border: 9px dotted red; width: auto; border-collapse: separate }
main table thead th, main table tbody td { background: black; color: white; padding: 3em; text-align: center }
main table tr:nth-child(odd) > td { background: #eee; box-shadow: inset 0 0 0 99px #eee; text-transform: uppercase }
main .table > table > * > * > *, main table td:first-child { border: 5px solid lime; font: italic 30px serif }
table td, table th { white-space: pre; letter-spacing: 1em; vertical-align: bottom; text-decoration: underline }
tr:hover td { background: orange } tbody { opacity: .5 } tr { height: 9em }
"""
WITH_TABLES = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{% block title %}{% endblock %}</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/host.css"></head>
<body id="content"><main>{% block content %}{% endblock %}</main></body></html>"""
STYLES = """() => {
  const found = document.querySelectorAll("#hubhooks-table, #hubhooks-table :is(table, thead, tbody, tr, th, td)");
  const of = (style) => [...style].map((name) => `${name}: ${style.getPropertyValue(name)}`);
  return [...found].map((each) => [each.tagName, ...of(getComputedStyle(each))]);
}"""


@pytest.mark.parametrize("site", [{"HUBHOOKS_LAYOUT": "registry.html"}], indirect=True, ids=["layout"])
def test_the_hosts_tables_are_others(site: Host, visit: Visit) -> None:
    """Styles that a host has for its tables do not change ours, wide or narrow."""
    css = [""]
    site.app.jinja_loader = DictLoader({"registry.html": WITH_TABLES})
    site.app.add_url_rule("/host.css", "css", lambda: Response(css[0], mimetype="text/css"))
    history = ways(site)["history"]
    for width in (WIDE, NARROW):
        visit.resize(width)
        looks = []
        for css[0] in ("", TABLES):
            history(visit)
            looks.append(visit.page.evaluate(STYLES))
        assert len(looks[0]) == len(looks[1]) > 30
        changed = [(each[0], {*each} - {*before}) for before, each in zip(*looks, strict=True) if each != before]
        assert not changed


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_tags_stay_whole(site: Host, visit: Visit, width: int) -> None:
    """A tag that fits is shown in one line, whatever else takes room; a longer one widens no page and no table."""
    webhook = site.create("https://ci.example.com/" + "path/" * 30, *["https://ci.example.com/hook"] * 2)
    tags = ["v2.4.2-rc1-alpine", "nightly", "t" * 128]
    for tag in tags:
        site.push(tag=tag, pusher="somebody-with-a-long-name")
    visit.resize(width)
    visit.open(f"{webhook['id']}/history/")
    lines = "each => Math.round(each.getBoundingClientRect().height / parseFloat(getComputedStyle(each).lineHeight))"
    found = [visit.page.locator(".tag-name", has_text=tag).evaluate(lines) for tag in tags]
    assert found[:2] == [1, 1] and found[2] > 1
    assert visit.page.locator("#hubhooks-table").evaluate("each => each.scrollWidth - each.clientWidth") == 0
    visit.fits(width, SMALLEST)


def test_the_chart_can_be_read(site: Host, visit: Visit) -> None:
    """Its days and times are no smaller than 10 px, also in a narrow window."""
    go = ways(site)["history"]
    for width in (NARROW, WIDE):
        visit.resize(width)
        go(visit)
        texts = visit.page.locator(".chart text").all()
        assert texts and all((box := each.bounding_box()) and box["height"] >= 10 for each in texts), width


def test_hostile_text_is_only_shown(site: Host, visit: Visit) -> None:
    """Names, pushers, callbacks, answers and what was typed run nothing, end no element and widen no page."""
    for name, go in hostile_ways(site).items():
        go(visit)
        if name == "delivery":
            expect(visit.field("Response body")).to_contain_text("<script>marked")
            visit.sees("X-Evil")
        assert visit.page.evaluate("typeof marked") == "undefined"
        assert visit.page.locator(".hubhooks script, .hubhooks img").count() == 0
        shown = visit.page.locator("body").inner_text()
        assert "{{7*7}}" in shown + _typed(visit)
        visit.fits(NARROW, SMALLEST, WIDE)


def _typed(visit: Visit) -> str:
    return str(visit.page.evaluate("[...document.querySelectorAll('input')].map(each => each.value).join()"))


def test_hostile_text_turns_nothing_around(site: Host, visit: Visit) -> None:
    """What a name does to the direction of text ends with the name."""
    hostile_ways(site)["webhooks"](visit)
    title = visit.page.title()
    assert "\u202e" not in title
    direction = "e => getComputedStyle(e).unicodeBidi"
    assert visit.page.get_by_role("heading", level=3).locator("bdi").evaluate(direction) == "isolate"
    assert not visit.page.evaluate(UNISOLATED)


UNISOLATED = """() => {
  const walker = document.createTreeWalker(document.querySelector(".hubhooks"), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const {data, parentElement} = walker.currentNode;
    if (/[\\u202a-\\u202e\\u2066-\\u2069]/.test(data) && !parentElement.closest("bdi, pre"))
      found.push(parentElement.outerHTML);
  }
  return found;
}"""


def test_a_strict_policy_is_in_force(site: Host, visit_as: MakeVisit) -> None:
    """The host's policy, under which all these tests visit the pages, refuses inline scripts, and a visit notices."""
    visit = visit_as()
    ways(site)["webhooks"](visit)
    assert not visit.faults
    visit.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.marked = true'}))"
    )
    assert visit.page.evaluate("typeof marked") == "undefined"
    refused, visit.faults[:] = list(visit.faults), []
    assert len(refused) == 1 and "Content Security Policy" in refused[0]


def test_nothing_moves_where_nobody_wants_it(site: Host, visit_as: MakeVisit) -> None:
    """A row that changed is animated, but not for who prefers reduced motion."""
    webhook = site.create("https://ci.example.com/hook")
    visits = [visit_as(), visit_as(reduced_motion="reduce")]
    for visit in visits:
        visit.page.clock.install()
        visit.open(f"{webhook['id']}/history/")
    site.push(tag="v1")
    moving = []
    for visit in visits:
        visit.wait_a_minute()
        visit.sees("v1")
        moving.append(visit.page.evaluate("document.getAnimations().length"))
    assert moving == [1, 0]


def test_the_focus_is_seen(site: Host, visit: Visit) -> None:
    """Whatever the keyboard leads to is outlined."""
    go = ways(site)
    for name in ("webhooks", "edit", "history", "delivery"):
        go[name](visit)
        _walk(visit)


def _walk(visit: Visit) -> None:
    outlines: list[str] = []
    for _ in range(25):
        visit.page.keyboard.press("Tab")
        outlines.append(visit.page.evaluate(OUTLINE))
    assert set(outlines) <= {"", "solid 3px"} and outlines.count("solid 3px") > 9


OUTLINE = """() => {
  const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
  return document.activeElement === document.body ? "" : `${outlineStyle} ${outlineWidth}`;
}"""
