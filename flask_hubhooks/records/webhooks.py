"""Webhooks and their hooks: owners create, edit, pause and delete them, and we disable those that fail."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from ..config import Config
from ..crypto.secret_box import SecretBox, SecretUnreadable
from ..crypto.signing import new_secret
from ..dialects import lock_repository, utcnow
from ..formats import DEFAULT_FORMAT, BadTemplate, Template
from ..transport.hook_url import BadURL, canonical_origin, is_loopback
from ..transport.tls import DEFAULT_TLS, TLS
from . import request_headers, superseding
from .cancelling import cancel_hook, cancel_webhook
from .credentials import headers_of
from .filters import stored_filter
from .locks import lock_unsent
from .models import Hook, Webhook, webhooks
from .scopes import is_pattern, patterns_of

logger = logging.getLogger(__name__)

MAX_SLUG = 200
_OTHER_THAN_LETTERS = re.compile(r"-+")

NO_FINAL_CALLBACK = "The last hook gets no callback URL with its payload format, so it cannot call back."


class Refused(Exception):
    """The request breaks a rule. `errors` are messages by field, as for other bad input."""

    def __init__(self, errors: Mapping[str, Any]) -> None:
        super().__init__(str(errors))
        self.errors = errors


@dataclass(frozen=True)
class HookWanted:
    """A hook that a webhook is to have: a present one by its `id`, or a new one by its URL.

    None leaves a present hook's value as it is, but for `supersede`, where None is the payload format's default.
    """

    hook_url: str | None = None
    id: int | None = None
    payload_format: str | None = None
    template: str | None = None
    supersede: bool | EllipsisType | None = ...
    tls: TLS | None = None
    timeout_s: int | None = None
    credentials: str = field(default="", repr=False)
    """`user:password` from its URL, decoded; "" if none were given."""
    has_credentials: bool | None = None
    """False drops those that are stored."""


@dataclass(frozen=True)
class Owner:
    """The user who changes webhooks, the webhooks' scope, and the limits that apply."""

    name: str
    scope: str
    config: Config
    secrets: SecretBox


def live(scope: str) -> ColumnElement[bool]:
    """The webhooks of a scope that are not deleted."""
    return (Webhook.scope == scope) & (Webhook.deleted_id == 0)


def inherited_by(session: Session, scope: str) -> list[int]:
    """The ids of the webhooks of namespaces and of the registry that get a repository's pushes; none of a pattern."""
    if is_pattern(scope):
        return []
    found = select(Webhook.id, Webhook.repository_filter).where(
        Webhook.scope.in_(patterns_of(scope)), Webhook.deleted_id == 0
    )
    return [each.id for each in session.execute(found) if stored_filter(each.repository_filter).matches(scope)]


def create(session: Session, owner: Owner, wanted: Mapping[str, Any]) -> tuple[Webhook, str]:
    """Create a webhook with a `name` and perhaps a `secret` and other fields of `edit`.

    Returns it with its secret, which cannot be read again. Raises `Refused` if the name is taken or a limit exceeded.
    """
    lock_repository(session, owner.scope)
    webhook, secret = build(session, owner, wanted)
    session.add(webhook)
    session.flush()
    return webhook, secret


def build(session: Session, owner: Owner, wanted: Mapping[str, Any]) -> tuple[Webhook, str]:
    """Return a new webhook as `create` makes it, and its secret, without storing anything.

    For a preview it may lack a name. Raises `Refused` as `create` does.
    """
    if "name" in wanted:
        count = session.scalar(select(func.count()).select_from(Webhook).where(live(owner.scope))) or 0
        if count >= owner.config.max_webhooks:
            raise Refused({"name": [f"There are {count} webhooks already, the maximum. Delete one first."]})
    secret = wanted.get("secret") or new_secret()
    webhook = Webhook(
        scope=owner.scope,
        active=True,
        disabled_reason="",
        encrypted_secret=owner.secrets.encrypt(secret),
        creator=owner.name,
        last_updater=owner.name,
        hooks=[],
    )
    _change(session, owner, webhook, wanted)
    return webhook, secret


def edit(session: Session, owner: Owner, webhook: Webhook, wanted: Mapping[str, Any]) -> None:
    """Change `name`, `active`, `expect_final_callback`, filters, `headers` and `hooks`, as far as they are given.

    The transaction has locked the repository. `hooks` are all hooks in order: those that are missing are removed.
    Pausing has workers hold what is unsent, and activating again has them send it, see `holding`; it also forgets how
    long hooks have been failing. Raises `Refused` as `create` does.
    """
    if "hooks" in wanted:
        lock_unsent(session, webhook.id)
    with session.no_autoflush:  # deliveries are locked before their webhook, as workers do
        _change(session, owner, webhook, wanted)
        _note_updater(session, owner, webhook)
    session.flush()
    session.refresh(webhook, ["hooks"])


def delete(session: Session, owner: Owner, webhook: Webhook) -> None:
    """Delete at once: the name is free, the history unreadable, nothing more is sent, and secrets are gone."""
    cancel_webhook(session, webhook.id)
    webhook.deleted_id = webhook.id
    webhook.encrypted_former_secret = webhook.former_secret_until = webhook.encrypted_headers = None
    for hook in webhook.hooks:
        hook.encrypted_authorization = None
    webhook.last_updater = owner.name
    webhook.last_updated = utcnow()


def disable(session: Session, webhook_id: int, reason: str) -> bool:
    """Disable a webhook, whose unsent deliveries are held from then on; returns False if it was not active."""
    active = update(webhooks).where(webhooks.c.id == webhook_id, webhooks.c.active, webhooks.c.deleted_id == 0)
    disabled = active.values(active=False, disabled_reason=reason).returning(webhooks.c.id)
    return session.scalar(disabled) is not None


def _change(session: Session, owner: Owner, webhook: Webhook, wanted: Mapping[str, Any]) -> None:
    if "hooks" in wanted:
        _set_hooks(session, owner, webhook, wanted["hooks"])
    if "active" in wanted and wanted["active"] != webhook.active:
        webhook.active = wanted["active"]
        if webhook.active:
            webhook.disabled_reason = ""
            for hook in webhook.hooks:
                hook.failing_since = None
    if "name" in wanted and wanted["name"] != webhook.name:
        _rename(session, webhook, wanted["name"])
    if "tag_filter" in wanted:
        webhook.tag_filter = " ".join(wanted["tag_filter"])
    if "repository_filter" in wanted:
        webhook.repository_filter = _repository_filter(webhook.scope, wanted["repository_filter"])
    if "expect_final_callback" in wanted:
        webhook.expect_final_callback = wanted["expect_final_callback"]
    if "headers" in wanted:
        _set_headers(owner, webhook, wanted["headers"])
    if wanted.keys() & {"hooks", "headers"}:
        _check_authorization(owner, webhook, wanted)
    if wanted.keys() & {"hooks", "expect_final_callback"} and webhook.expect_final_callback:
        last = max(
            (each for each in webhook.hooks if not each.removed_at), key=lambda hook: hook.position, default=None
        )
        if last and not last.has_callback:
            raise Refused({"expect_final_callback": [NO_FINAL_CALLBACK]})


def _note_updater(session: Session, owner: Owner, webhook: Webhook) -> None:
    """Note who has changed the webhook and its hooks, if anything has changed."""
    changed = {*session.new, *(each for each in session.dirty if session.is_modified(each))}
    for each in changed | {webhook} if changed else ():
        if isinstance(each, Webhook | Hook):
            each.last_updater = owner.name
            each.last_updated = utcnow()


def _set_headers(owner: Owner, webhook: Webhook, wanted: Mapping[str, str | None]) -> None:
    """Set all request headers. None keeps a value, since nobody can read it to send it again."""
    known = {name.lower(): value for name, value in (headers_of(owner.secrets, webhook) or {}).items()}
    given = {name: known.get(name.lower(), "") if value is None else value for name, value in wanted.items()}
    headers = {name: value for name, value in given.items() if value}
    if missing := given.keys() - headers.keys():
        raise Refused(
            {"headers": {name: ["Enter a value: there is none, or it can no longer be decrypted."] for name in missing}}
        )
    if headers != headers_of(owner.secrets, webhook):
        webhook.encrypted_headers = owner.secrets.encrypt(request_headers.as_text(headers)) if headers else None


def _repository_filter(scope: str, patterns: Sequence[str]) -> str:
    """The filter as it is stored, if each pattern can match a repository of the scope."""
    if patterns and not is_pattern(scope):
        raise Refused({"repository_filter": ["Only webhooks of a namespace or of the registry have this filter."]})
    first = scope[:-1]  # what all names begin with
    errors = {}
    for index, pattern in enumerate(patterns):
        literal = re.split(r"[*?\[]", pattern.removeprefix("!"))[0]
        if not (literal.startswith(first) or (first.startswith(literal) and literal != pattern.removeprefix("!"))):
            errors[index] = [f"Matches no repository of {scope}: their names begin with {first!r}."]
    if errors:
        raise Refused({"repository_filter": errors})
    return " ".join(patterns)


def _rename(session: Session, webhook: Webhook, name: str) -> None:
    others = session.execute(
        select(Webhook.name, Webhook.slug).where(live(webhook.scope), Webhook.id != webhook.id)
    ).all()
    if any(each.name == name for each in others):
        raise Refused({"name": ["There is already a webhook with this name."]})
    webhook.name = name
    webhook.slug = _slug(name, {each.slug for each in others})


def _slug(name: str, taken: Collection[str]) -> str:
    """The name for a URL: letters, digits and marks of any script, hyphens, and a number if it is taken."""
    folded = unicodedata.normalize("NFKC", name).lower()
    kept = (letter if unicodedata.category(letter)[0] in "LMN" else "-" for letter in folded)
    base = _OTHER_THAN_LETTERS.sub("-", "".join(kept)).strip("-")[:MAX_SLUG].rstrip("-") or "webhook"
    numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return next(slug for slug in (base, *numbered) if slug not in taken)


def _set_hooks(session: Session, owner: Owner, webhook: Webhook, wanted: Sequence[HookWanted]) -> None:
    if len(wanted) > max(owner.config.max_hooks, len(webhook.hooks)):  # the limit may have been lowered since
        raise Refused({"hooks": [f"A webhook may have at most {owner.config.max_hooks} hooks."]})
    kept = _kept(webhook.hooks, wanted)
    formats = _formats(kept, wanted)
    _check_tls(kept, wanted)
    for hook in [each for each in webhook.hooks if each not in kept]:
        cancel_hook(session, hook, "The hook was removed from the webhook.")
        hook.removed_at, hook.encrypted_authorization = utcnow(), None
    for position, (known, each, chosen) in enumerate(zip(kept, wanted, formats, strict=True)):
        hook = known or Hook(hook_url=str(each.hook_url), creator=owner.name, last_updater=owner.name)
        superseded = known and hook.supersedes
        if not known:
            webhook.hooks.append(hook)
        if each.hook_url not in (None, hook.hook_url):
            if not _same_origin(str(each.hook_url), hook.hook_url):
                hook.encrypted_authorization = None
            hook.hook_url, hook.failing_since = str(each.hook_url), None
        _set_credentials(owner, hook, each, position)
        if chosen != (hook.payload_format, hook.template):
            hook.payload_format, hook.template = chosen
            hook.failing_since = None
        if not isinstance(each.supersede, EllipsisType):
            hook.supersede = each.supersede
        if each.tls is not None and each.tls != tls_of(hook):
            hook.tls, hook.failing_since = each.tls.content() or None, None
        if each.timeout_s is not None:
            hook.timeout_s = each.timeout_s
        if known and hook.supersedes is not superseded:
            superseding.set_order(session, hook)
        hook.position = position
    warn_if_unreachable(owner.config.external_url, webhook)


def warn_if_unreachable(external_url: str, webhook: Webhook) -> bool:
    """Log, and return, whether a receiver on another machine is to post its callbacks to this one's localhost."""
    if not is_loopback(external_url):
        return False
    remote = next((hook for hook in webhook.hooks if hook.has_callback and not is_loopback(hook.hook_url)), None)
    if remote:
        logger.warning(
            "a webhook of %s has a receiver on another machine, which cannot post callbacks to %s: set "
            "HUBHOOKS_EXTERNAL_URL to a URL that it can reach",
            webhook.scope,
            external_url,
        )
    return bool(remote)


def _same_origin(one: str, other: str) -> bool:
    try:
        return canonical_origin(one) == canonical_origin(other)
    except BadURL:  # an earlier version accepted it
        return False


def _set_credentials(owner: Owner, hook: Hook, wanted: HookWanted, position: int) -> None:
    """Keep, drop or replace the user name and password of a hook."""
    if wanted.credentials:
        authorization = request_headers.basic(wanted.credentials)
        with suppress(SecretUnreadable):
            if hook.encrypted_authorization and owner.secrets.decrypt(hook.encrypted_authorization) == authorization:
                return
        hook.encrypted_authorization, hook.failing_since = owner.secrets.encrypt(authorization), None
    elif wanted.has_credentials is False:
        hook.encrypted_authorization = None
    elif wanted.has_credentials and not hook.has_credentials:
        error = (
            "No user name and password are stored for this scheme, host and port. Write them into the URL, such as "
            "https://user:password@ci.example.com/hook, or remove them."
        )
        raise Refused({"hooks": {position: {"has_credentials": [error]}}})


def _check_authorization(owner: Owner, webhook: Webhook, wanted: Mapping[str, Any]) -> None:
    """Refuse an Authorization header of the webhook beside a hook's own."""
    headers = headers_of(owner.secrets, webhook) or {}
    name = next((name for name in headers if name.lower() == "authorization"), None)
    both = [each.position for each in webhook.hooks if each.has_credentials and not each.removed_at]
    if name is None or not both:
        return
    if "headers" in wanted:
        error = "A hook URL has a user name and password, which are sent in this header. Remove one of them."
        raise Refused({"headers": {name: [error]}})
    error = "The webhook has an Authorization header. Remove it, or the user name and password."
    raise Refused({"hooks": {position: {"hook_url": [error]} for position in both}})


def _formats(kept: Sequence[Hook | None], wanted: Sequence[HookWanted]) -> list[tuple[str, str | None]]:
    """The payload format and template of each hook that is wanted."""
    formats, errors = [], {}
    for index, (known, each) in enumerate(zip(kept, wanted, strict=True)):
        payload_format = each.payload_format or (known.payload_format if known else DEFAULT_FORMAT)
        template = each.template
        if template is None and known and payload_format == "template":
            template = known.template
        if fault := template_fault(payload_format, template):
            errors[index] = {"template": [fault]}
        formats.append((payload_format, template))
    if errors:
        raise Refused({"hooks": errors})
    return formats


def template_fault(payload_format: str, template: str | None) -> str:
    """Why a hook cannot have this template with its payload format; "" if it can."""
    if payload_format != "template":
        return "" if template is None else "Only hooks with the payload format `template` have a template."
    if template is None:
        return "Enter the template of the payload."
    try:
        Template(template)
    except BadTemplate as bad:
        return str(bad)
    return ""


def _check_tls(kept: Sequence[Hook | None], wanted: Sequence[HookWanted]) -> None:
    errors = {}
    for index, (known, each) in enumerate(zip(kept, wanted, strict=True)):
        tls = each.tls if each.tls is not None else tls_of(known) if known else DEFAULT_TLS
        url = each.hook_url or (known.hook_url if known else "")
        if fault := tls_fault(url, tls):
            errors[index] = {"tls": [fault]}
    if errors:
        raise Refused({"hooks": errors})


def tls_of(hook: Hook) -> TLS:
    return TLS(**hook.tls) if hook.tls else DEFAULT_TLS


def tls_fault(hook_url: str, tls: TLS) -> str:
    """Why a hook cannot have these TLS settings with its URL; "" if it can."""
    encrypted = hook_url.lower().startswith("https:")
    return "" if encrypted or tls == DEFAULT_TLS else "TLS settings need a hook URL that begins with https://."


def _kept(hooks: Sequence[Hook], wanted: Sequence[HookWanted]) -> list[Hook | None]:
    """Return the present hook for each wanted one, found by its id or else its URL; None if it is new."""
    left = {hook.id: hook for hook in hooks}
    kept: list[Hook | None] = [left.pop(each.id, None) if each.id is not None else None for each in wanted]
    errors = {
        index: {"hook_url": ["Missing data for required field."]}
        if each.id is None
        else {"id": ["This webhook has no such hook, or the hook is listed twice."]}
        for index, each in enumerate(wanted)
        if kept[index] is None and (each.id is not None or each.hook_url is None)
    }
    if errors:
        raise Refused({"hooks": errors})
    for index, each in enumerate(wanted):
        if each.id is None:
            same = next((hook for hook in left.values() if hook.hook_url == each.hook_url), None)
            kept[index] = left.pop(same.id) if same else None
    return kept
