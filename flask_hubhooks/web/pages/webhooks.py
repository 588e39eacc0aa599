"""The pages of a repository's webhooks: list, create, edit, pause, delete, rotate the secret."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

from flask import Response, request

from ...dialects import utcnow
from ...formats import dockerhub
from ...outbox import recent_tags
from ...records import runs, webhooks, workers
from ...records.credentials import FORMER_SECRET_TTL
from ...records.filters import BadPattern, Filter, check_tag_pattern
from ...records.holding import count_unsent
from ...records.models import Status, Webhook
from ...records.scopes import sample_repository
from ...records.webhooks import Refused
from ...worker.masking import MASKED
from ..api import previews
from ..api import webhooks as api
from ..api.previews import PREVIEW_DOCUMENT, Preview
from ..api.webhooks import WEBHOOK_DOCUMENT, editing, find_webhook, page_of_webhooks, read_webhook
from ..authorization import Call
from ..document_fields import time
from ..endpoints import loaded, version
from ..problems import Problem
from ..schemas import PreviewSchema, WebhookSchema
from .forms import Form, WebhookForm
from .rendering import page, pretty, see
from .translation import gettext as _
from .translation import marked

PREVIEW = "preview-requests"
"""The button of the forms that shows what would be sent."""
WEBHOOKS = 10
"""The number of webhooks on a page."""
CHANGED = marked(
    "Somebody else has changed this webhook since you opened the page. Open the page again to see the changes."
)


def show_all(call: Call, query: dict[str, Any]) -> Response:
    return _list(call, WebhookForm(), query["page"])


def _list(call: Call, form: WebhookForm, number: int = 1, status: int = 200) -> Response:
    with call.state.reading() as session:
        rows, count = page_of_webhooks(session, call, [], Webhook.id.desc(), number, WEBHOOKS)
        recent = runs.recent(session, rows, call.scope)
        pending = (recent[row.id][0].state is Status.PENDING for row in rows if row.active and recent[row.id])
        waiting = workers.no_worker(session) if any(pending) else ""
    return page(
        call,
        "webhooks.html",
        status,
        form=form,
        webhooks=[call.viewer.document(WEBHOOK_DOCUMENT, row) for row in rows],
        recent=recent,
        waiting=waiting,
        count=count,
        older=number + 1 if number * WEBHOOKS < count else None,
        newer=number - 1 if number > 1 else None,
        here=number if number > 1 else None,
        payload=_example(call),
    )


def _example(call: Call) -> str:
    repository = sample_repository(call.scope)
    today = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)  # else it would change while it is read
    content = dockerhub.payload(
        external_url=call.state.config.external_url,
        callback_url=dockerhub.make_callback_url(call.state.config.external_url, repository, MASKED),
        repository=repository,
        tag="latest",
        pusher=call.user,
        pushed_at=today,
        details=call.details | {"full_description": "", "dockerfile": ""},
    )
    return json.dumps(content, indent=2, ensure_ascii=False)


def create(call: Call, sent: Form) -> Response:
    """Create a webhook. The response itself shows the secret, which is shown only once."""
    form = WebhookForm.typed(sent)
    action = sent.get("action", "save")
    if not form.errors and action not in ("save", PREVIEW):
        form.rearrange(action)
        return _list(call, form)
    if form.check():
        typed = form.content()
        hooks = [{key: value for key, value in each.items() if key != "id"} for each in typed["hooks"]]
        content = {"name": typed["name"], "hooks": hooks}
        try:
            if action == PREVIEW:
                wanted = loaded(PreviewSchema(), content if form.name.strip() else {"hooks": hooks})
                form.preview = _shown_preview(call, previews.preview_webhook(call, wanted))
                return _list(call, form)
            made = api.create_webhook(call, loaded(WebhookSchema(), content))
            webhook = call.viewer.document(WEBHOOK_DOCUMENT, made.row)
            return page(call, "secret.html", 201, webhook=webhook, secret=made.secret, created=True)
        except (Refused, Problem) as refused:
            _refuse(form, refused)
    return _list(call, form, status=400)


def _shown_preview(call: Call, preview: Preview) -> dict[str, Any]:
    document = dict(call.viewer.document(PREVIEW_DOCUMENT, preview))
    requests = [{**each, "body": pretty(each["body"])} for each in document["requests"]]
    return document | {"requests": requests}


def _refuse(form: WebhookForm, refused: Refused | Problem) -> None:
    if not refused.errors:
        raise refused
    form.refuse(refused.errors)


def show_form(call: Call, webhook_id: int) -> Response:
    row = read_webhook(call, webhook_id)
    document = call.viewer.document(WEBHOOK_DOCUMENT, row)
    form = WebhookForm.of(document, row, version(document))
    return _edit(call, document, form)


def _edit(call: Call, webhook: dict[str, Any], form: WebhookForm, status: int = 200) -> Response:
    with call.state.reading() as session:
        tags = recent_tags(session, call.scope)
    patterns = [each for each in form.patterns() if _is_pattern(each)]
    matches = Filter(patterns).matches
    return page(
        call,
        "edit.html",
        status,
        webhook=webhook,
        form=form,
        matching=[tag for tag in tags if matches(tag)],
        other=[tag for tag in tags if not matches(tag)],
    )


def _is_pattern(text: str) -> bool:
    try:
        check_tag_pattern(text)
    except BadPattern:
        return False
    return True


def edit(call: Call, sent: Form, webhook_id: int) -> Response:
    """Save a webhook unless it was changed in between. Other buttons show a preview, or only rearrange the form."""
    form = WebhookForm.typed(sent)
    action = sent.get("action", "save")
    if not form.errors and action not in ("save", PREVIEW):
        form.rearrange(action)
        return _edit(call, _document(call, webhook_id), form)
    if form.check():
        try:
            wanted = loaded(WebhookSchema(), form.content())
            if action == PREVIEW:
                form.preview = _shown_preview(call, previews.preview_edit(call, wanted, webhook_id))
                return _edit(call, _document(call, webhook_id), form)
            with editing(call, webhook_id) as (session, row):
                if form.version != version(call.viewer.document(WEBHOOK_DOCUMENT, row)):
                    raise Refused({"": [_(CHANGED)]})
                webhooks.edit(session, call.owner, row, wanted)
            return see(".pages_webhooks", repository=call.scope, notice="saved")
        except (Refused, Problem) as refused:
            _refuse(form, refused)
    return _edit(call, _document(call, webhook_id), form, 400)


def _document(call: Call, webhook_id: int) -> dict[str, Any]:
    return dict(call.viewer.document(WEBHOOK_DOCUMENT, read_webhook(call, webhook_id)))


def pause(call: Call, sent: Form, webhook_id: int) -> Response:
    api.edit_webhook(call, {"active": False}, webhook_id)
    return _back(call, webhook_id, "paused")


def resume(call: Call, sent: Form, webhook_id: int) -> Response:
    api.edit_webhook(call, {"active": True}, webhook_id)
    return _back(call, webhook_id, "resumed")


def _back(call: Call, webhook_id: int, notice: str) -> Response:
    """Redirect to where the button was, given by `at`: the webhook's history, or a page of the list."""
    at = request.args.get("at", "")
    if at == "history":
        return see(".pages_history", repository=call.scope, webhook_id=webhook_id, notice=notice)
    page_number = at if re.fullmatch("[1-9][0-9]{0,5}", at) else None
    return see(".pages_webhooks", repository=call.scope, page=page_number, notice=notice)


def confirm_delete(call: Call, webhook_id: int) -> Response:
    with call.state.reading() as session:
        webhook = call.viewer.document(WEBHOOK_DOCUMENT, find_webhook(session, call, webhook_id, with_hooks=True))
        unsent = count_unsent(session, webhook_id)
    return page(call, "delete.html", webhook=webhook, unsent=unsent)


def delete(call: Call, sent: Form, webhook_id: int) -> Response:
    api.delete_webhook(call, webhook_id)
    return see(".pages_webhooks", repository=call.scope, notice="deleted")


def confirm_rotation(call: Call, webhook_id: int) -> Response:
    webhook = _document(call, webhook_id)
    hours = FORMER_SECRET_TTL // timedelta(hours=1)
    return page(call, "rotate_secret.html", webhook=webhook, version=version(webhook), hours=hours)


def rotate_secret(call: Call, sent: Form, webhook_id: int) -> Response:
    """Replace the secret. The response itself shows the new one once; reloading it replaces nothing."""
    new = api.rotate_secret(call, {"secret": None}, webhook_id, sent.get("version", ""))
    return page(
        call,
        "secret.html",
        webhook=_document(call, webhook_id),
        secret=new.secret,
        former_secret_until=time(new.former_secret_until),
        created=False,
    )
