"""What a webhook belongs to, its scope: a repository (`acme/app`), a namespace (`acme/*`) or the registry (`*`).

The webhooks of a namespace get the pushes of every repository whose name begins with it, at any depth, and those of the
registry get all pushes. Both scopes are patterns, and no repository has such a name.
"""

from __future__ import annotations

from sqlalchemy import or_

from .models import webhooks

REGISTRY = "*"
_ALL_BELOW = "/*"
WILDCARDS = frozenset("*?[")

has_pattern = or_(webhooks.c.scope == REGISTRY, webhooks.c.scope.endswith(_ALL_BELOW))
"""Whether the scope of a webhook is a pattern."""


def scope_of_namespace(namespace: str) -> str:
    return namespace + _ALL_BELOW


def is_pattern(scope: str) -> bool:
    """Whether a scope is a namespace or the registry."""
    return scope == REGISTRY or scope.endswith(_ALL_BELOW)


def is_namespace(name: str) -> bool:
    """Whether a namespace can have this name: no part of it is empty, and it has no wildcards."""
    return all(name.split("/")) and WILDCARDS.isdisjoint(name)


def patterns_of(repository: str) -> list[str]:
    """The namespaces of a repository, the innermost first, and the registry.

    Those of `acme/team/app` are `acme/team/*`, `acme/*` and `*`.
    """
    patterns = []
    namespace = repository
    while "/" in namespace:
        namespace = namespace.rpartition("/")[0]
        patterns.append(scope_of_namespace(namespace))
    return [*patterns, REGISTRY]


def covers(scope: str, repository: str) -> bool:
    """Whether webhooks of this scope get the pushes of a repository."""
    return repository.startswith(scope[:-1]) if is_pattern(scope) else repository == scope


def sample_repository(scope: str) -> str:
    """The repository of a scope, or a made-up one of a namespace, for tests and examples."""
    return f"{scope[:-1]}hubhooks-test" if is_pattern(scope) else scope
