"""The README's example runs, and what the pages refer to exists."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from flask_hubhooks.config import Config
from flask_hubhooks.records.models import OUTCOMES, Status
from flask_hubhooks.testing import Deliveries
from flask_hubhooks.web.openapi import ABOUT

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's app and receiver work together as they stand."""
    for name, code in zip(("app.py", "receiver.py"), _python_of(ROOT / "README.md"), strict=True):
        (tmp_path / name).write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    app, receiver = (import_module(name) for name in ("app", "receiver"))
    del sys.modules["app"], sys.modules["receiver"]  # they do not outlive `tmp_path`
    hook_url = "http://127.0.0.1:8000/hook"
    with Deliveries(app.app) as deliveries:
        hook = deliveries.receiver(hook_url)
        client = app.app.test_client()
        wanted = {"name": "deploy", "hook_url": hook_url}
        assert client.post("/v2/repositories/acme/app/webhooks/", json=wanted).status_code == 201
        assert client.put("/v2/acme/app/manifests/latest").status_code == 201
        assert deliveries.deliver_now() == 1
    assert receiver.app.test_client().post("/hook", json=hook.payloads[0]).status_code == 204
    assert capsys.readouterr().out == "acme/app latest\n"
    with app.app.app_context():
        app.db.engine.dispose()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of the repository names one, and each fragment a heading in it."""
    for name, fragment in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not fragment or fragment in _fragments(target), f"{name}#{fragment}"


def test_payload_shows_the_snippets_of_the_pages() -> None:
    """The code that verifies a signature is the same in the docs and on the pages, where tests run it."""
    shown = (ROOT / "docs" / "payload.md").read_text("utf-8")
    for snippet in (ROOT / "flask_hubhooks" / "templates" / "hubhooks" / "verify").glob("*.txt"):
        assert snippet.read_text("utf-8").strip() in shown, snippet.name


def test_configuration_keys_exist() -> None:
    """Each key that `docs/configuration.md` names is one."""
    keys = {f"HUBHOOKS_{each.name.upper()}" for each in fields(Config)}
    documented = set(re.findall(r"HUBHOOKS_[A-Z_]+", (ROOT / "docs" / "configuration.md").read_text("utf-8")))
    assert documented <= keys


def _python_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def _fragments(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_table_of_states() -> None:
    """The API's page and the OpenAPI document have the same table of all states, statuses and outcomes."""
    table = re.search(r"\| `state` \|(.*\n\|.*)+", ABOUT)
    assert table and table[0] in (ROOT / "docs" / "api.md").read_text("utf-8")
    rows = [re.findall(r"`(\w+)`", line) for line in table[0].splitlines()[2:]]
    assert [row[0] for row in rows] == [each.value for each in Status]
    decides = {row[0]: row[-1] for row in rows if row[-1] in OUTCOMES}
    assert decides == {state.value: outcome for outcome, states in OUTCOMES.items() for state in states}
