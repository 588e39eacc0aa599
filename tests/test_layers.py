"""The layout: which module imports which, and which one writes the states of deliveries."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import flask_hubhooks
from flask_hubhooks.records import transitions

LAYERS = [
    {"config", "dialects", "engines", "outages", "redis_client", "registry", "signals", "version"},
    {"crypto", "formats", "sources", "transport"},
    {"state"},
    {"records"},
    {"announce", "outbox", "wakeups"},
    {"worker"},
    {"cli", "testing", "web"},
    {"extension"},
]
"""The folders and modules of the package; each layer imports from itself and from those before it."""

WITHOUT_FRAMEWORKS = {"crypto", "formats", "sources", "transport"}
FRAMEWORKS = {"flask", "flask_sqlalchemy", "sqlalchemy", "werkzeug"}


def test_imports_point_down() -> None:
    """A module imports from its own layer and lower ones, and the pure layers neither Flask nor SQLAlchemy."""
    layer_of = {name: number for number, names in enumerate(LAYERS) for name in names}
    paths = {_module(path): path for path in _root().rglob("*.py") if path.parent != _root() or path.stem != "__init__"}
    assert {_part(module) for module in paths} == set(layer_of), "every folder and module has its layer"
    for module, path in paths.items():
        imported = set(_imports(module, path, set(paths)))
        upward = {each for each in imported & set(paths) if layer_of[_part(each)] > layer_of[_part(module)]}
        assert not upward, f"{module} imports {upward}"
        if _part(module) in WITHOUT_FRAMEWORKS:
            foreign = {each.split(".")[0] for each in imported} & FRAMEWORKS
            assert not foreign, f"{module} imports {foreign}"


def test_no_import_circles() -> None:
    """No module imports itself by way of others."""
    paths = {_module(path): path for path in _root().rglob("*.py")}
    graph = {module: set(_imports(module, path, set(paths))) & set(paths) - {module} for module, path in paths.items()}
    list(TopologicalSorter(graph).static_order())  # raises `CycleError`


def _part(module: str) -> str:
    return module.split(".")[1]


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


def test_transitions_alone_write_states() -> None:
    """No other module writes a column that holds a delivery's state, in a statement or as an attribute of a row."""
    columns = set(transitions.new_round(redelivered=False))
    written = 0
    for path in _root().rglob("*.py"):
        if path.name == "transitions.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values":
                sources = [ast.unparse(each).split(".")[0] for each in node.args]
                assert set(sources) <= {"transitions"}, f"{path.name}:{node.lineno} writes columns of its own"
                names = {each.arg for each in node.keywords}
                written += len(sources)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names = {node.attr} if ast.unparse(node.value) != "self" else set()
            else:
                continue
            assert not names & columns, f"{path.name}:{node.lineno} writes {names & columns}"
    assert written > 10
