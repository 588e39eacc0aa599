"""The language of the pages: complete catalogues, and which one a visitor gets."""

# ruff: noqa: RUF001 - Chinese has commas and colons of its own

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from babel.messages import Catalog
from babel.messages.mofile import write_mo
from flask import render_template, request
from flask_babel import Babel
from jinja2 import DictLoader
from werkzeug.test import TestResponse

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.webhooks import disable
from flask_hubhooks.web.pages import words

from ..support import catalogues
from ..support.host import Host
from ..support.receivers import Receiver
from ..support.visitor import version_on

KNOWN = {
    *(
        "Webhook",
        "Webhooks",
        "webhook-id",
        "hubhooks-test",
        "POST",
        "HTTP",
        "callback_url",
        "WEBHOOK_SECRET",
        "Standard",
    ),
    *("Authorization", "https", "example", "hook", "acme", "Cookie", "Python", "Node"),
    *("Docker", "Keel", "Kargo", "Dokploy", "Jenkins", "Argo", "Flux", "Kobold", "Knative", "Events"),
    *(
        "Slack",
        "Mattermost",
        "Rocket",
        "Chat",
        "Discord",
        "Microsoft",
        "Teams",
        "JSON",
        "dockerhub-full",
        "harbor",
        "distribution",
        "cloudevents",
    ),
}
"""Words that Chinese engineers use as they are: names, and what stands in a request."""


@pytest.fixture
def make_visited(sqlite_uri: str, redis_url: str) -> Iterator[Callable[..., Host]]:
    """A function that makes a host with Flask-Babel, whose visitors name their locale in a header."""
    with ExitStack() as stack:

        def make(**config: object) -> Host:
            host = Host(sqlite_uri, redis_url, config={"WTF_CSRF_ENABLED": False} | config)
            stack.callback(host.close)
            Babel(host.app, locale_selector=lambda: request.headers.get("X-Locale", "en"))
            return host

        yield make


@pytest.fixture
def host(make_visited: Callable[..., Host]) -> Host:
    return make_visited()


def visit(host: Host, path: str = "", locale: str = "zh_Hans_CN", **options: Any) -> TestResponse:
    headers = {"X-User": "alice", "X-Locale": locale}
    return host.client.open(f"/r/acme/app/webhooks/{path}", headers=headers, **options)


class Page(HTMLParser):
    """What a page says: its language and direction, and its own texts, including attributes.

    What is quoted is left out, and so is what says to be English.
    """

    VOID = ("meta", "link", "input", "br")
    TOLD = ("aria-label", "title", "data-label", "data-announce", "data-copied", "data-not-copied")
    QUOTED = ("bdi", "code", "pre", "script", "style")

    def __init__(self, answer: TestResponse) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.of_html: dict[str, str | None] = {}
        self._open: list[bool] = []
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "html":
            self.of_html = given
        self.texts += [text for name in self.TOLD if (text := given.get(name))]
        if tag not in self.VOID:
            self._open.append(tag in self.QUOTED or given.get("lang") == "en" != self.of_html["lang"])

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.texts += [text for name in self.TOLD if (text := dict(attributes).get(name))]

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, text: str) -> None:
        if text.strip() and not any(self._open):
            self.texts.append(text.strip())

    @property
    def english(self) -> set[str]:
        return set(re.findall("[A-Za-z_-]{4,}", " ".join(self.texts))) - KNOWN


def assert_chinese(answer: TestResponse, *texts: str, status: int = 200) -> None:
    """Check that the page is entirely in Chinese, and contains these texts."""
    assert answer.status_code == status, answer.text
    page = Page(answer)
    assert page.of_html == {"lang": "zh-Hans", "dir": "ltr"}
    assert page.english == set()
    said = " ".join(page.texts)
    assert [text for text in texts if text not in said] == [], said


@pytest.mark.parametrize("folder", catalogues.LANGUAGES)
def test_every_text_is_translated(folder: str) -> None:
    """A catalogue has exactly the texts of the sources, all translated: `make translations`."""
    catalogue = catalogues.stored(folder)
    assert set(catalogues.strings(catalogue)) == catalogues.texts()
    assert catalogues.missing(catalogue) == []
    assert [each.id for each in catalogue if each.fuzzy] == []
    assert list(catalogue.obsolete) == []


@pytest.mark.parametrize("folder", catalogues.LANGUAGES)
def test_a_translation_takes_the_same_values(folder: str) -> None:
    """A translation has its text's placeholders, and no other percent signs."""
    for text, string in catalogues.strings(catalogues.stored(folder)).items():
        one, *__ = text if isinstance(text, tuple) else (text,)
        for form in string if isinstance(string, tuple) else (string,):
            assert placeholders(form) == placeholders(one), text
            assert not placeholders(form) or form.count("%") == len(placeholders(form)), text


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"%\([a-z]+\)s", text))


@pytest.mark.parametrize("folder", catalogues.LANGUAGES)
def test_catalogues_are_compiled(folder: str) -> None:
    """What is loaded is what the catalogue says, as `make translations` compiles it."""
    compiled = catalogues.compiled(folder)
    assert catalogues.strings(compiled) == catalogues.strings(catalogues.stored(folder))
    assert compiled.locale_identifier == catalogues.LANGUAGES[folder]


def test_chinese_has_one_form_for_any_number() -> None:
    """The catalogue declares that Chinese has no plural."""
    assert catalogues.stored("zh").num_plurals == 1


def test_list_in_chinese(host: Host) -> None:
    """The list is in Chinese: without a webhook, with one in each state, and after an action."""
    assert_chinese(visit(host), "创建 Webhook", "此仓库还没有 Webhook。")
    with Receiver(500) as receiver:
        __, paused, disabled = (host.create(receiver.url, receiver.url, name=name) for name in ("a", "b", "c"))
        host.push()
        host.deliver()
    visit(host, f"{paused['id']}/pause/", method="POST")
    with host.writing() as session:
        disable(session, disabled["id"], "it is gone")
    answer = visit(host, "?notice=paused")
    assert_chinese(
        answer,
        "Webhook 已暂停。待发送的投递会保留到您恢复它为止。",
        "已启用",
        "已暂停",
        "已停用",
        "最近 1 次：进行中 1 次",
    )


def test_history_in_chinese(host: Host) -> None:
    """The history and its deliveries are in Chinese: answered, failed, called back, waiting and redelivered."""
    with Receiver(500, 200, 200) as receiver:
        webhook = host.create(receiver.url, receiver.url, name="a")
        for tag in ("one", "two"):
            host.push(tag=tag)
        host.deliver()
        host.call_back(receiver.requests[1].body, description="ok")
        host.deliver()
    path = f"{webhook['id']}/history/"
    assert_chinese(visit(host, path), "推送者", "进行中", "等待回调", "回调：成功", "刚刚", "下次尝试", "最近 7 天")
    assert_chinese(visit(host, f"{path}?tag=none"), "没有符合筛选条件的记录。")
    pages = [visit(host, f"{path}{delivery['id']}/") for delivery in host.history(webhook)]
    for page in pages:
        assert_chinese(page, "Webhook 链")
    assert sum("载荷" in page.text for page in pages) == 3, "that of what was sent"
    assert any("首次尝试" in page.text and "耗时 " in page.text for page in pages)
    last = host.history(webhook)[0]
    host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False})
    refused = visit(host, f"{path}{last['id']}/redeliver/", method="POST")
    assert_chinese(refused, "409 冲突 未发送：此 Webhook 未启用。", status=409)
    test = visit(host, f"{webhook['id']}/test/", method="POST", follow_redirects=True)
    assert_chinese(test, "已发送测试推送。", "尚未发送。")


def test_forms_in_chinese(host: Host) -> None:
    """Confirmations and the page with a new secret are in Chinese."""
    created = visit(host, method="POST", data={"name": "a", "hook_url": "https://ci.example.com/", "hook_id": ""})
    assert_chinese(created, "密钥", "在接收方验证请求", status=201)
    (webhook,) = host.api("GET", "acme/app/webhooks/").get_json()["results"]
    one = f"{webhook['id']}/"
    assert_chinese(visit(host, one), "标签过滤器", "保存")
    assert_chinese(visit(host, one + "delete/"), "删除", "取消")
    asked = visit(host, one + "rotate-secret/")
    assert_chinese(asked, "此后 24 小时内")
    sent = {"version": version_on(asked)}
    assert_chinese(visit(host, one + "rotate-secret/", method="POST", data=sent), "请立即复制：密钥仅显示这一次。")


TYPED = {"name": "b", "hook_url": "https://ci.example.com/", "hook_id": ""}
WRONG: list[tuple[dict[str, str], str]] = [
    ({"name": "a"}, "已有同名的 Webhook。"),
    ({"name": ""}, "不能为空。"),
    ({"name": "a\0b"}, "不能包含控制字符。"),
    ({"hook_url": ""}, "请填写接收推送的 URL。"),
    ({"hook_url": "nowhere"}, "必须是完整的 URL，例如 https://ci.example.com/hook。"),
    ({"hook_url": "https://a b/"}, "不能包含空格，请改用 %20。"),
    ({"hook_id": "9"}, "此 Webhook 没有这个 URL，或它被重复指定。"),
    ({"tag_filter": "v* é"}, "é：只能包含字母、数字、“_”、“.”、“-”以及通配符“*”、“?”、“[…]”，开头可以加“!”。"),
    ({"header_name": "Host", "header_value": "a"}, "此标头由镜像仓库自行设置。"),
    ({"header_name": "X-A", "header_value": ""}, "没有值，或原有的值已无法读取：请填写一个值。"),
    ({"version": "other"}, "您打开此页面后，其他人已修改了此 Webhook。请重新打开页面查看最新内容。"),
]


@pytest.mark.parametrize(
    ("typed", "told"), WRONG, ids=[" ".join(typed) + str(n) for n, (typed, __) in enumerate(WRONG)]
)
def test_errors_of_input_in_chinese(host: Host, typed: dict[str, str], told: str) -> None:
    """Errors in forms are in Chinese."""
    host.create("https://ci.example.com/", name="a")
    webhook = host.create("https://ci.example.com/", name="b")
    known = re.search('name="version" value="(.+?)"', visit(host, f"{webhook['id']}/").text)
    assert known
    answer = visit(host, f"{webhook['id']}/", method="POST", data=TYPED | {"version": known[1]} | typed)
    assert_chinese(answer, told, "尚未保存，请查看标出的问题。", status=400)


PROBLEMS = {
    "missing": ("7/", 404, "404 未找到 您访问的内容不存在，或您无权查看。"),
    "query": ("?page=x", 400, "400 请求无效 请求无效，详见以下错误。 : 不是有效的整数。"),
    "method": ("7/pause/", 405, "405 不允许的请求方法"),
}


@pytest.mark.parametrize(("path", "status", "told"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems_in_chinese(host: Host, path: str, status: int, told: str) -> None:
    """The title of an error is in Chinese, and so are its details as far as they contain no value."""
    answer = visit(host, path)
    assert answer.status_code == status
    assert told in " ".join(Page(answer).texts)


def test_expired_forms_in_chinese(host: Host) -> None:
    """A form without its session's token is refused in Chinese."""
    host.app.config["WTF_CSRF_ENABLED"] = True
    assert_chinese(
        visit(host, method="POST", data=TYPED), "表单已过期，或您的浏览器未保存 Cookie。请重新提交。", status=400
    )
    assert_chinese(visit(host, "7/pause/", method="POST"), "表单已过期", status=400)


@pytest.mark.parametrize(
    ("locale", "language", "direction", "heading"),
    [
        ("zh", "zh-Hans", "ltr", "现有 Webhook"),
        ("zh_CN", "zh-Hans", "ltr", "现有 Webhook"),
        ("zh_Hans_SG", "zh-Hans", "ltr", "现有 Webhook"),
        ("zh_TW", "zh-Hans", "ltr", "现有 Webhook"),
        ("en_GB", "en", "ltr", "Current webhooks"),
        ("de", "en", "ltr", "Current webhooks"),
        ("ar", "en", "rtl", "Current webhooks"),
    ],
)
def test_a_locale_finds_its_language(host: Host, locale: str, language: str, direction: str, heading: str) -> None:
    """Pages use the locale's language if there is a catalogue, otherwise English, and declare it."""
    page = Page(visit(host, locale=locale))
    assert page.of_html == {"lang": language, "dir": direction}
    assert heading in page.texts


def test_each_visitor_has_a_language(host: Host) -> None:
    """Each visitor gets their own language, regardless of previous visitors."""
    for locale, title in (("zh", "Webhook"), ("en", "Webhooks"), ("zh", "Webhook")):
        assert title in Page(visit(host, locale=locale)).texts


LAYOUT = """{{ gettext("Save") }} {{ _("Save") }} {{ _("Cancel") }} {% trans %}Save{% endtrans %}
{{ ngettext("%(num)s tag", "%(num)s tags", 2) }}:{% block content %}{% endblock %}"""


def test_texts_of_the_host_are_its_own(make_visited: Callable[..., Host], tmp_path: Path) -> None:
    """The host's translations do not apply to our texts, nor ours to the host's, even on one page."""
    theirs = Catalog("zh")
    theirs.add("Save", "存档")
    (folder := tmp_path / "zh" / "LC_MESSAGES").mkdir(parents=True)
    with (folder / "messages.mo").open("wb") as file:
        write_mo(file, theirs)
    host = make_visited(HUBHOOKS_LAYOUT="base.html", BABEL_TRANSLATION_DIRECTORIES=str(tmp_path))
    host.app.jinja_loader = DictLoader({"base.html": LAYOUT})
    host.app.add_url_rule("/theirs", view_func=lambda: render_template("base.html"))
    webhook = host.create("https://ci.example.com/")
    theirs_alone = host.client.get("/theirs", headers={"X-Locale": "zh"}).text
    assert theirs_alone == "存档 存档 Cancel 存档\n2 tags:"
    answer = visit(host, f"{webhook['id']}/").text
    assert answer.startswith(theirs_alone)
    assert '<div class="hubhooks" lang="zh-Hans"' in answer
    assert ">保存</button>" in answer and ">取消</a>" in answer
    assert host.client.get("/theirs", headers={"X-Locale": "zh"}).text == theirs_alone


def test_values_in_translated_texts_are_escaped(host: Host) -> None:
    """Names in translated texts are shown unchanged and escaped, with percent signs too."""
    webhook = host.create("https://ci.example.com/", name="<b>%(name)s</b> 100 %")
    answer = visit(host, f"{webhook['id']}/delete/")
    assert "要删除 <bdi>&lt;b&gt;%(name)s&lt;/b&gt; 100 %</bdi> 吗？" in answer.text
    assert "<title>删除 &lt;b&gt;%(name)s&lt;/b&gt; 100 %</title>" in answer.text


@pytest.mark.parametrize(
    ("before", "english", "chinese"),
    [
        (timedelta(seconds=1), "just now", "刚刚"),
        (timedelta(minutes=1, seconds=5), "1 minute ago", "1 分钟前"),
        (timedelta(hours=2, minutes=1), "2 hours ago", "2 小时前"),
        (timedelta(days=1, hours=1), "1 day ago", "1 天前"),
        (timedelta(days=-3, hours=-1), "in 3 days", "3 天后"),
        (timedelta(hours=-1, minutes=-1), "in 1 hour", "1 小时后"),
    ],
    ids=["now", "minute", "hours", "day", "days ahead", "hour ahead"],
)
def test_times_in_words(host: Host, before: timedelta, english: str, chinese: str) -> None:
    """Relative times use the plural form for their number."""
    for locale, told in (("en", english), ("zh", chinese)):
        with host.app.test_request_context(headers={"X-Locale": locale}):
            assert words.ago(utcnow() - before) == told


@pytest.mark.parametrize("before", ["", "sys.modules['flask_babel'] = None"], ids=["installed", "not installed"])
def test_english_without_flask_babel(sqlite_uri: str, redis_url: str, before: str) -> None:
    """Pages are in English in a host that has not set up Flask-Babel, whether installed or not."""
    code = f"""
import sys
{before}
from tests.support.host import Host
host = Host({sqlite_uri!r}, {redis_url!r})
answer = host.client.get("/r/acme/app/webhooks/", headers={{"X-User": "alice", "Accept-Language": "zh"}})
assert answer.status_code == 200
assert '<html lang="en" dir="ltr">' in answer.text, answer.text
assert "This repository has no webhooks yet." in answer.text, answer.text
host.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
