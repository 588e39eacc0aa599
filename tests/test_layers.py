"""The layout: who may import whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import flask_hubhooks

LAYERS = [
    "config engines hook_url outages registry request_headers signals tag_filter database",
    "broker",
    "delivery delivery.signing delivery.tokens transport.addresses transport.certificates transport.files "
    "transport.lookups transport.outcome",
    "transport.egress",
    "transport.causes",
    "transport.exchange",
    "transport.loop",
    "transport",
    "delivery.breaker delivery.open_files delivery.payload delivery.retry",
    "models",
    "state",
    "chains credentials",
    "announce outbox redelivery repositories webhooks",
    "delivery.claims delivery.listener retention",
    "delivery.recording delivery.rooms",
    "delivery.dispatcher",
    "delivery.jobs",
    "delivery.servers",
    "delivery.worker",
    "web.documents web.problems web.schemas",
    "web.history web.openapi.answers web.openapi.words web.pipeline web.pages.translation",
    "web.chain_history web.etag web.openapi.requests web.rate web.pages.attempts web.pages.forms web.pages.week",
    "web.api.webhooks web.callbacks",
    "web.api.deliveries",
    "web.api web.openapi web.pages.words",
    "web.pages.rendering",
    "web.pages.deliveries web.pages.webhooks",
    "web.pages",
    "cli web",
    "extension testing",
    "flask_hubhooks",
]
"""The package's modules, from those that know nobody to the package itself."""

FRAMEWORKS = {"flask", "flask_sqlalchemy", "sqlalchemy", "werkzeug"}
FIRST_WITH_A_DATABASE = LAYERS.index("models")


def test_imports_point_down() -> None:
    """Every module imports from lower layers only, and delivery's pure ones neither Flask nor SQLAlchemy."""
    layer_of = {f"flask_hubhooks.{name}": layer for layer, names in enumerate(LAYERS) for name in names.split()}
    layer_of["flask_hubhooks"] = layer_of.pop("flask_hubhooks.flask_hubhooks")
    paths = {_module(path): path for path in _root().rglob("*.py")}
    assert set(paths) == set(layer_of), "every module has its place in LAYERS"
    for module, path in paths.items():
        imported = set(_imports(module, path, set(paths)))
        upward = {each for each in imported & set(paths) if layer_of[each] >= layer_of[module]}
        assert not upward, f"{module} imports {upward}"
        if (
            module.startswith(("flask_hubhooks.delivery", "flask_hubhooks.transport"))
            and layer_of[module] < FIRST_WITH_A_DATABASE
        ):
            foreign = {each.split(".")[0] for each in imported} & FRAMEWORKS
            assert not foreign, f"{module} imports {foreign}"


def test_pytest_is_no_dependency() -> None:
    """Only the module for hosts' tests imports pytest, and no other module imports that one."""
    paths = {_module(path): path for path in _root().rglob("*.py")}
    imports = {module: set(_imports(module, path, set(paths))) for module, path in paths.items()}
    assert [module for module, imported in imports.items() if "pytest" in imported] == ["flask_hubhooks.testing"]
    assert not [module for module, imported in imports.items() if "flask_hubhooks.testing" in imported]


@pytest.mark.parametrize("page", ["guarantees.md", "security.md"])
def test_documents_name_tests_that_exist(page: str) -> None:
    """Every test that a page names is there; `::test_…` is of the file that was named last."""
    tests, file = Path(__file__).parent, ""
    names = re.findall(
        r"`((?:\w+/)?test_\w+\.py)?(?:::(test_\w+))?`", (tests.parent / "docs" / page).read_text("utf-8")
    )
    for file_named, test in names:
        file = file_named or file
        if file_named or test:
            defined = {getattr(each, "name", "") for each in ast.parse((tests / file).read_text("utf-8")).body}
            assert not test or test in defined, f"{file}::{test}"
    assert len([test for _, test in names if test]) > 20


def _root() -> Path:
    return Path(flask_hubhooks.__file__).parent


def _module(path: Path) -> str:
    parts = path.relative_to(_root().parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(module: str, path: Path, ours: set[str]) -> Iterator[str]:
    """The modules that a module imports, also where it takes a submodule from a package."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield from (name if (name := f"{source}.{each.name}") in ours else source for each in node.names)
