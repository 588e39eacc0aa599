"""The pages of a namespace, and what a repository shows of the webhooks that it inherits."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from ..support.host import Host
from .conftest import MakeVisit
from .test_every_page import violations
from .visit import NARROW, WIDE

CI, AUDIT = "https://ci.example.com/hubhooks", "https://audit.example.com/pushes"


def fill(host: Host) -> dict[str, str]:
    """Webhooks of a repository, of its namespace and of the registry, with deliveries; returns the ids by name."""
    ids = {}
    for base, user, name, url in (
        ("acme/app/webhooks/", "alice", "Deploy", CI),
        ("/v2/namespaces/acme/webhooks/", "alice", "Build farm", CI),
        ("/v2/registry/webhooks/", "root", "Audit", AUDIT),
    ):
        ids[name] = str(host.api("POST", base, user, json={"name": name, "hook_url": url}).get_json()["id"])
    for url in (CI, AUDIT):
        host.deliveries.receiver(url)
    with host.deliveries:
        for repository, tag in (
            ("acme/app", "v1.0"),
            ("acme/team/api-with-a-rather-long-name", "v2.4.1"),
            ("acme/web", "v3"),
        ):
            host.push(repository, tag, pusher="alice")
        host.deliveries.deliver_now()
    return ids


def test_axe_finds_nothing(site: Host, visit_as: MakeVisit, tmp_path: Path) -> None:
    """The pages of a namespace and the inherited rows of a repository violate no rule of axe-core, and fit."""
    ids = fill(site)
    farm = ids["Build farm"]
    pages = {
        "namespace": ("", "acme/*"),
        "namespace-empty": ("", "acme/team/*"),
        "namespace-edit": (f"{farm}/", "acme/*"),
        "namespace-history": (f"{farm}/history/", "acme/*"),
        "inherited": ("", "acme/app"),
        "inherited-history": (f"{farm}/history/", "acme/app"),
    }
    visit = visit_as(reduced_motion="reduce")
    found = {}
    for name, (path, scope) in pages.items():
        visit.open(path, scope)
        for width in (NARROW, WIDE):
            visit.fits(width)
            found[name, width] = violations(visit.page)
        visit.page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    assert not {key: each for key, each in found.items() if each}


def test_from_the_namespace_to_the_repository(site: Host, visit_as: MakeVisit) -> None:
    """An owner sets a repository filter on the namespace's page; the repository then shows the webhook or does not."""
    fill(site)
    visit = visit_as()
    visit.open(repository="acme/app")
    visit.sees("Inherited from acme/*")
    visit.sees("Inherited from the registry")
    expect(visit.menu("Deploy")).to_be_visible()
    expect(visit.menu("Build farm")).to_have_count(0)
    visit.link("Build farm").click()
    visit.heading("History of Build farm")
    visit.sees("v1.0")
    expect(visit.page.get_by_text("v2.4.1")).to_have_count(0)
    visit.open(repository="acme/*")
    visit.choose("Build farm", "Edit")
    visit.field("Repository filter").fill("web-*")
    visit.button("Save").click()
    visit.sees("web-*: Matches no repository of acme/*")
    visit.field("Repository filter").fill("acme/web*")
    visit.button("Save").click()
    visit.sees("The webhook was saved.")
    visit.open(repository="acme/app")
    visit.sees("Inherited from the registry")
    expect(visit.page.get_by_text("Build farm")).to_have_count(0)
    visit.open(repository="acme/*")
    visit.link("Build farm").click()
    visit.field("Repository").fill("acme/web")
    visit.button("Filter").click()
    visit.sees("v3")
    expect(visit.page.get_by_text("v1.0")).to_have_count(0)
