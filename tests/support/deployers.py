"""How deployers in the wild read a webhook: each rule returns the image that it would deploy.

A rule takes what arrives, headers with lower-case names and the body, and returns a reference such as
`registry.example.com/acme/app:v1@sha256:…`, with the digest where the deployer reads one. It raises `Refused` where the
deployer would answer with an error or do nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Headers = Mapping[str, str]
Rule = Callable[[Headers, bytes], str]

SECRET = "secret-of-the-receiver"


class Refused(Exception):
    """The deployer deploys nothing."""


def keel_dockerhub(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    for part, key in [("push_data", "pushed_at"), *(("repository", f"{key}_count") for key in ("star", "comment"))]:
        typed(content, int, part, key)
    typed(content, int, "repository", "date_created")
    return with_default_host(
        typed(content, str, "repository", "repo_name"), typed(content, str, "push_data", "tag"), "index.docker.io"
    )


def keel_harbor(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    typed(content, int, "occur_at")
    if content["type"] not in ("pushImage", "PUSH_ARTIFACT"):
        raise Refused
    [resource] = content["event_data"]["resources"]
    name, _, tag = typed(resource, str, "resource_url").rpartition(":")
    return with_default_host(name, tag, "index.docker.io") + at(resource.get("digest"))


def keel_registry(headers: Headers, body: bytes) -> str:
    [event] = decoded(body)["events"]
    if event["action"] != "push" or not event["target"]["tag"]:
        raise Refused
    rfc_3339(event["timestamp"])
    target = event["target"]
    return f"{event['request']['host']}/{target['repository']}:{target['tag']}" + at(target.get("digest"))


def kargo_dockerhub(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    return with_default_host(
        typed(content, str, "repository", "repo_name"), typed(content, str, "push_data", "tag"), "docker.io"
    )


def kargo_harbor(headers: Headers, body: bytes) -> str:
    if headers.get("authorization") != SECRET:
        raise Refused
    content = decoded(body)
    if content["type"] != "PUSH_ARTIFACT":
        raise Refused
    resource = content["event_data"]["resources"][0]
    return f"{resource['resource_url'].rpartition(':')[0]}:{typed(resource, str, 'tag')}"


def image_updater_docker(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    return f"docker.io/{content['repository']['repo_name']}:{content['push_data']['tag']}"


def image_updater_harbor(headers: Headers, body: bytes) -> str:
    if "application/json" not in headers["content-type"] or headers.get("authorization") != SECRET:
        raise Refused
    content = decoded(body)
    typed(content, int, "occur_at")
    if content["type"] != "PUSH_ARTIFACT":
        raise Refused
    resource = content["event_data"]["resources"][0]
    host = urlsplit(f"https://{resource['resource_url']}").netloc
    name = typed(content, str, "event_data", "repository", "repo_full_name")
    return f"{host}/{name}:{typed(resource, str, 'tag')}" + at(resource.get("digest"))


def image_updater_cloudevents(headers: Headers, body: bytes) -> str:
    if not re.search("application/(cloudevents[+])?json", headers["content-type"]):
        raise Refused
    content = decoded(body)
    if not content["specversion"] or not re.search("container|image", content["type"]):
        raise Refused
    if {type(value) for key, value in content.items() if key != "data"} != {str}:
        raise Refused
    data = typed(content, dict, "data")
    return f"{typed(data, str, 'registry')}/{data['repository']}:{typed(data, str, 'tag')}" + at(data.get("digest"))


def argo_cd_dockerhub(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    return f"docker.io/{content['repository']['repo_name']}:{content['push_data']['tag']}"


def argo_cd_harbor(headers: Headers, body: bytes) -> str:
    if headers.get("authorization") != SECRET:
        raise Refused
    content = decoded(body)
    if content["type"] != "PUSH_ARTIFACT":
        raise Refused
    resource = content["event_data"]["resources"][0]
    host = urlsplit(f"oci://{resource['resource_url']}").netloc
    return f"{host}/{content['event_data']['repository']['repo_full_name']}:{typed(resource, str, 'tag')}"


def kobold_dockerhub(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    return f"docker.io/{content['repository']['repo_name']}:{content['push_data']['tag']}"


def kobold_harbor(headers: Headers, body: bytes) -> str:
    [resource] = decoded(body)["event_data"]["resources"]
    return str(resource["resource_url"])


def kobold_distribution(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    [event] = content.get("events", [content])
    target = event["target"]
    return f"{event['request']['host']}/{target['repository']}:{target['tag']}@{target['digest']}"


def jenkins_dockerhub(headers: Headers, body: bytes) -> str:
    """`repo_name` is compared with the image as a job writes it; the tag is a build variable."""
    content = decoded(body)
    typed(content, int, "push_data", "pushed_at")
    typed(content, str, "callback_url")
    return f"{typed(content, str, 'repository', 'repo_name')}:{content['push_data']['tag']}"


def jenkins_registry(headers: Headers, body: bytes) -> str:
    [event] = decoded(body)["events"]
    parts = typed(event, str, "target", "url").split("/")
    if event["action"] != "push" or parts[-2] != "manifests":
        raise Refused
    rfc_3339(event["timestamp"])
    return f"{parts[2]}/{event['target']['repository']}:{event['target']['tag']}"


def dokploy(headers: Headers, body: bytes) -> str:
    """It compares name and tag with the application's image, of which it takes a short number at the end for a port."""
    if "Go-http-client" not in headers.get("user-agent", ""):
        raise Refused  # it deploys whatever was pushed
    content = decoded(body)
    name, tag = content["repository"]["repo_name"], content["push_data"]["tag"]
    configured = f"{name}:{tag}"
    if name != (configured if re.fullmatch(r"[0-9]{1,5}", tag) else configured.rpartition(":")[0]):
        raise Refused  # 301
    return configured


def gitter(headers: Headers, body: bytes) -> str:
    """Gitter's services and older bots ignore a push without images."""
    content = decoded(body)
    if not content["push_data"].get("images"):
        raise Refused
    return f"{content['repository']['repo_name']}:{content['push_data']['tag']}"


def kapten(headers: Headers, body: bytes) -> str:
    """Kapten, and two receivers in Python, accept nothing but callback URLs of Docker Hub's own."""
    content = decoded(body)
    name = content["repository"]["repo_name"]
    if not content["callback_url"].startswith(f"https://registry.hub.docker.com/u/{name}/hook/"):
        raise Refused
    return f"{name}:{content['push_data']['tag']}"


RULES: Mapping[str, Rule] = {
    "Keel, Docker Hub": keel_dockerhub,
    "Keel, Harbor": keel_harbor,
    "Keel, registry": keel_registry,
    "Kargo, Docker Hub": kargo_dockerhub,
    "Kargo, Harbor": kargo_harbor,
    "Argo CD Image Updater, Docker Hub": image_updater_docker,
    "Argo CD Image Updater, Harbor": image_updater_harbor,
    "Argo CD Image Updater, CloudEvents": image_updater_cloudevents,
    "Argo CD, Docker Hub": argo_cd_dockerhub,
    "Argo CD, Harbor": argo_cd_harbor,
    "Kobold, Docker Hub": kobold_dockerhub,
    "Kobold, Harbor": kobold_harbor,
    "Kobold, Distribution": kobold_distribution,
    "Jenkins, Docker Hub": jenkins_dockerhub,
    "Jenkins, registry": jenkins_registry,
    "Dokploy": dokploy,
    "Gitter": gitter,
    "Kapten": kapten,
}


FLUX_READS: Mapping[str, Any] = {
    "dockerhub": {"push_data": {"tag": str}, "repository": {"repo_url": str}},
    "quay": {"docker_url": str, "updated_tags": list},
    "acr": {"action": str, "target": {"repository": str, "tag": str}},
}
"""What Flux decodes, by the type of its `Receiver`. It only logs what it finds, and all of it may be absent."""


def flux_decodes(type_: str, body: bytes) -> None:
    fits(decoded(body), FLUX_READS[type_])


def fits(content: Any, shape: Any) -> None:
    if not isinstance(shape, dict):
        if type(content) is not shape:
            raise Refused
    elif not isinstance(content, dict):
        raise Refused
    else:
        for key in shape.keys() & content.keys():
            fits(content[key], shape[key])


def flux_github(headers: Headers, body: bytes, token: str) -> None:
    """Its library takes a signature of the body, keyed with the token as text."""
    expected = "sha256=" + hmac.new(token.encode(), body, hashlib.sha256).hexdigest()
    if headers["content-type"] != "application/json" or headers["x-hub-signature-256"] != expected:
        raise Refused


def flux_generic_hmac(headers: Headers, body: bytes, token: str) -> None:
    """The header names the hash function of the signature."""
    function, _, signature = headers["x-signature"].partition("=")
    if (
        function not in ("sha1", "sha256", "sha512")
        or hmac.new(token.encode(), body, function).hexdigest() != signature
    ):
        raise Refused


def flux_harbor(headers: Headers, body: bytes) -> None:
    if headers.get("authorization") != SECRET:
        raise Refused


def flux_cdevents(headers: Headers, body: bytes) -> None:
    """It validates the body as an event of CDEvents 0.4."""
    context, subject = (typed(decoded(body), dict, key) for key in ("context", "subject"))
    if not typed(context, str, "version").startswith("0.4.") or not typed(subject, str, "id"):
        raise Refused


def flux_generic_oidc(headers: Headers, body: bytes) -> None:
    """It wants a short-lived JWT of an issuer that it trusts."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or token.count(".") != 2:
        raise Refused


# Receivers that go by the URL or the credentials, whatever the body is


def portainer(path: str, headers: Headers) -> str:
    """The tag replaces what follows the first colon of the service's image."""
    return f"{SERVICE.split(':')[0]}:{of_query(path, 'tag')}"


def watchtower(path: str, headers: Headers) -> str:
    """It updates the containers of an image, whose tags it keeps."""
    bearer(headers)
    return of_query(path, "image")


def azure(path: str, headers: Headers) -> str:
    if headers.get("authorization") != f"Basic {b64encode(b'$site:PASSWORD').decode()}":
        raise Refused
    return SERVICE


def coolify(path: str, headers: Headers) -> str:
    bearer(headers)
    of_query(path, "uuid")
    return SERVICE


def caprover(path: str, headers: Headers) -> str:
    of_query(path, "token")
    return SERVICE


SERVICE = "registry.example.com/acme/app:v0"
"""What runs already."""


def bearer(headers: Headers) -> None:
    if headers.get("authorization") != f"Bearer {SECRET}":
        raise Refused


def of_query(path: str, name: str) -> str:
    try:
        [value] = parse_qs(urlsplit(path).query)[name]
    except (KeyError, ValueError):
        raise Refused from None
    return value


# Chat: what is shown


def slack(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    if headers["content-type"] != "application/json" or not content.keys() <= {"text", "blocks"}:
        raise Refused
    for block in content["blocks"]:
        if block["type"] != "section" or block["text"]["type"] not in ("mrkdwn", "plain_text"):
            raise Refused
    return str(typed(content, str, "text"))


def discord(headers: Headers, body: bytes) -> str:
    text = typed(decoded(body), str, "content")
    if len(text) > 2000:
        raise Refused
    return str(text)


def teams(headers: Headers, body: bytes) -> str:
    content = decoded(body)
    [attachment] = typed(content, list, "attachments")
    card = attachment["content"]
    right = attachment["contentType"] == "application/vnd.microsoft.card.adaptive" and card["type"] == "AdaptiveCard"
    if len(body) > 28_000 or content["type"] != "message" or not right or card["version"] != "1.4":
        raise Refused
    return " ".join(each["text"] for each in card["body"] if each["type"] == "TextBlock")


def decoded(body: bytes) -> Any:
    content = json.loads(body.decode("utf-8"))
    if not isinstance(content, dict):
        raise Refused
    return content


def typed(content: Any, wanted: type, *keys: str) -> Any:
    """Return a value as Go's decoder takes it: of the wanted type alone, and not empty where it is text."""
    for key in keys:
        if key not in content:
            raise Refused
        content = content[key]
    if type(content) is not wanted or content == "":
        raise Refused
    return content


def with_default_host(name: str, tag: str, default: str) -> str:
    """Return a reference as Docker reads it: what comes before the first slash is a host if it looks like one."""
    first, slash, _ = name.partition("/")
    has_host = slash and (first == "localhost" or re.search(r"[.:]", first))
    return f"{name if has_host else f'{default}/{name}'}:{tag}"


def rfc_3339(text: str) -> None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text):
        raise Refused


def at(digest: str | None) -> str:
    return f"@{digest}" if digest else ""
