"""The example registry: the OCI protocol rule by rule, and with skopeo against a real server."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from example_app import create_app, models
from example_app.database import db
from example_app.image import Image, build_image, build_index, build_layout, digest_of
from flask_hubhooks.signals import image_pushed

from ..support.processes import until

ALICE = ("alice", "alice")
BOB = ("bob", "bob")
BASIC_ALICE = {"Authorization": "Basic YWxpY2U6YWxpY2U="}
BLOB = b"some content" * 1000
DIGEST = digest_of(BLOB)
PROJECT = Path(__file__).parent.parent.parent


def settings(folder: Path) -> dict[str, Any]:
    return {
        "SECRET_KEY": "for tests alone, and no secret",
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'registry.db'}",
        "REGISTRY_ROOT": str(folder / "registry"),
        "HUBHOOKS_EXTERNAL_URL": "http://registry.example",
    }


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = create_app(settings(tmp_path))
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def pushes(app: Flask) -> Iterator[list[dict[str, Any]]]:
    """What `image_pushed` told, in order."""
    told: list[dict[str, Any]] = []

    def remember(sender: Flask, **push: str) -> None:
        told.append(push)

    with image_pushed.connected_to(remember, app):
        yield told


@pytest.fixture
def server(app: Flask) -> Iterator[int]:
    """The port of the app on Werkzeug's threaded server."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the app on Gunicorn, two processes, configured from the environment alone."""
    folder = tmp_path_factory.mktemp("gunicorn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--workers=2", f"--bind=127.0.0.1:{port}"]
    with open(folder / "gunicorn.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "example_app:create_app()"], env=environment(folder), cwd=folder, stderr=log
        )
        try:
            until(lambda: accepts(port))
            yield port
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(params=["server", "gunicorn"])
def port(request: pytest.FixtureRequest) -> int:
    """The port of the app, once on each kind of server."""
    return int(request.getfixturevalue(request.param))


@pytest.fixture
def skopeo(server: int) -> Callable[..., str]:
    """Run skopeo; `{registry}` in its arguments is where the app listens."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("skopeo is not installed")

    def run(*arguments: str) -> str:
        words = [word.format(registry=f"docker://127.0.0.1:{server}") for word in arguments]
        result = subprocess.run(
            [program, "--insecure-policy", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def environment(folder: Path) -> dict[str, str]:
    values = {f"FLASK_{key}": value for key, value in settings(folder).items()}
    return {**os.environ, **values, "PYTHONPATH": os.pathsep.join([*sys.path, str(PROJECT)])}


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(client: FlaskClient, path: str, **options: Any) -> TestResponse:
    return client.get(path, buffered=True, **options)


def error_of(response: TestResponse) -> tuple[int, str]:
    """The status and the code of an error, which must have the specification's form."""
    assert response.content_type == "application/json"
    [error] = response.get_json()["errors"]
    assert {"code", "message", "detail"} == set(error)
    return response.status_code, error["code"]


def start_upload(client: FlaskClient, repository: str = "acme/app") -> str:
    response = client.post(f"/v2/{repository}/blobs/uploads/", auth=ALICE)
    assert response.status_code == 202
    return str(response.headers["Location"])


def push_blob(client: FlaskClient, content: bytes = BLOB, repository: str = "acme/app") -> str:
    digest = digest_of(content)
    path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
    assert client.post(path, data=content, auth=ALICE).status_code == 201
    return digest


def put_manifest(client: FlaskClient, image: Image, reference: str, repository: str = "acme/app") -> TestResponse:
    path = f"/v2/{repository}/manifests/{reference}"
    return client.put(path, data=image.manifest, content_type=image.media_type, auth=ALICE)


def push(client: FlaskClient, image: Image, reference: str, repository: str = "acme/app") -> str:
    for blob in image.blobs:
        push_blob(client, blob, repository)
    for child in image.children:
        push(client, child, child.digest, repository)
    assert put_manifest(client, image, reference, repository).status_code == 201
    return image.digest


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
    """One request as alice over a connection of its own; a generator as body is sent in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        chunked = body is not None and not isinstance(body, bytes)
        headers = {**BASIC_ALICE, **headers, **({"Transfer-Encoding": "chunked"} if chunked else {})}
        connection.request(method, path, body, headers, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


# Signing in


def test_version_check_challenges(client: FlaskClient) -> None:
    """Clients find out at /v2/ that they can sign in, and how."""
    for path in ("/v2/", "/v2"):
        response = client.get(path)
        assert error_of(response) == (401, "UNAUTHORIZED")
        assert response.headers["WWW-Authenticate"] == 'Basic realm="example registry"'
        assert client.get(path, auth=ALICE).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["Basic YWxpY2U6Ym9i", "Basic bm9ib2R5Og==", "Basic bm9ib2R5Og", "Basic ???", "Bearer alice", "x"],
)
def test_wrong_credentials(client: FlaskClient, header: str) -> None:
    """A wrong name or password never writes."""
    response = client.post("/v2/acme/app/blobs/uploads/", headers={"Authorization": header})
    assert error_of(response) == (401, "UNAUTHORIZED")


def test_wrong_password_pulls_nothing(client: FlaskClient) -> None:
    """Who gives a wrong password is told so even where none was needed."""
    push(client, build_image({"a": b"a"}), "latest")
    assert client.get("/v2/acme/app/manifests/latest", auth=("alice", "bob")).status_code == 401


def test_empty_credentials_are_none(client: FlaskClient) -> None:
    """An empty name with an empty password, which skopeo sends when it has none, may pull."""
    push(client, build_image({"a": b"a"}), "latest")
    assert client.get("/v2/acme/app/manifests/latest", auth=("", "")).status_code == 200


@pytest.mark.parametrize("repository", ["acme/app", "acme", "acme/team/app", "library/busybox", "busybox"])
@pytest.mark.parametrize("credentials", [None, ("", ""), BOB])
def test_only_the_owner_pushes(client: FlaskClient, repository: str, credentials: Any) -> None:
    """Nobody but its owner writes to a repository, and nobody at all where there is no owner."""
    expected = (403, "DENIED") if credentials == BOB else (401, "UNAUTHORIZED")
    for method, path in [
        ("POST", "blobs/uploads/"),
        ("PATCH", f"blobs/uploads/{'0' * 32}"),
        ("PUT", f"blobs/uploads/{'0' * 32}?digest={DIGEST}"),
        ("GET", f"blobs/uploads/{'0' * 32}"),
        ("DELETE", f"blobs/uploads/{'0' * 32}"),
        ("DELETE", f"blobs/{DIGEST}"),
        ("PUT", "manifests/latest"),
        ("DELETE", "manifests/latest"),
    ]:
        response = client.open(f"/v2/{repository}/{path}", method=method, auth=credentials)
        assert error_of(response) == expected


def test_private_repository(app: Flask, client: FlaskClient) -> None:
    """A private repository is pulled by its owner alone, and no blob of it is mounted by others."""
    push(client, build_image({"a": b"a"}), "latest")
    digest = push_blob(client)
    with app.app_context():
        db.session.get_one(models.Repository, "acme/app").is_private = True
        db.session.commit()
    for path in ("manifests/latest", f"blobs/{digest}", "tags/list"):
        assert error_of(client.get(f"/v2/acme/app/{path}")) == (401, "UNAUTHORIZED")
        assert error_of(client.get(f"/v2/acme/app/{path}", auth=BOB)) == (403, "DENIED")
        assert get(client, f"/v2/acme/app/{path}", auth=ALICE).status_code == 200
    mount = f"/v2/bob/app/blobs/uploads/?mount={digest}&from=acme/app"
    assert client.post(mount, auth=BOB).status_code == 202


# Blobs


def test_blob_comes_back(client: FlaskClient) -> None:
    """A blob pushed at once is had by HEAD, GET and in ranges, by anybody."""
    response = client.post(f"/v2/acme/app/blobs/uploads/?digest={DIGEST}", data=BLOB, auth=ALICE)
    assert response.status_code == 201
    path = response.headers["Location"]
    assert path == f"/v2/acme/app/blobs/{DIGEST}"
    head = client.head(path, buffered=True)
    assert (head.status_code, head.content_length, head.data) == (200, len(BLOB), b"")
    assert head.headers["Docker-Content-Digest"] == DIGEST
    assert get(client, path).data == BLOB
    part = get(client, path, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.data) == (206, BLOB[5:10])


def test_blob_deleted(client: FlaskClient) -> None:
    """A deleted blob is unknown."""
    path = f"/v2/acme/app/blobs/{push_blob(client)}"
    assert client.delete(path, auth=ALICE).status_code == 202
    assert error_of(client.get(path)) == (404, "BLOB_UNKNOWN")
    assert client.head(path).status_code == 404
    assert error_of(client.delete(path, auth=ALICE)) == (404, "BLOB_UNKNOWN")


def test_blob_of_another_repository(client: FlaskClient) -> None:
    """A blob is not readable through a repository that does not have it."""
    push_blob(client)
    assert error_of(client.get(f"/v2/acme/other/blobs/{DIGEST}")) == (404, "BLOB_UNKNOWN")


def test_mount(client: FlaskClient) -> None:
    """A blob is mounted from where it is, stays when deleted there, and is uploaded otherwise."""
    push_blob(client)
    mount = f"/v2/acme/other/blobs/uploads/?mount={DIGEST}&from="
    response = client.post(f"{mount}acme/none", auth=ALICE)
    assert (response.status_code, "Docker-Upload-UUID" in response.headers) == (202, True)
    for _ in range(2):
        response = client.post(f"{mount}acme/app", auth=ALICE)
        assert response.status_code == 201
        assert response.headers["Location"] == f"/v2/acme/other/blobs/{DIGEST}"
    client.delete(f"/v2/acme/app/blobs/{DIGEST}", auth=ALICE)
    assert get(client, f"/v2/acme/other/blobs/{DIGEST}").data == BLOB


@pytest.mark.parametrize(
    ("digest", "code"),
    [
        ("", "DIGEST_INVALID"),
        ("sha256:123", "DIGEST_INVALID"),
        (DIGEST.upper(), "DIGEST_INVALID"),
        ("sha256:" + "../" * 21 + "a", "DIGEST_INVALID"),
        ("sha512:" + "a" * 128, "UNSUPPORTED"),
        (digest_of(b"other"), "DIGEST_INVALID"),
    ],
)
def test_wrong_digest(client: FlaskClient, tmp_path: Path, digest: str, code: str) -> None:
    """What is not what its digest says is refused, and nothing of it is kept."""
    response = client.post(f"/v2/acme/app/blobs/uploads/?digest={digest}", data=BLOB, auth=ALICE)
    assert error_of(response) == (400, code)
    upload = start_upload(client)
    assert error_of(client.put(f"{upload}?digest={digest}", data=BLOB, auth=ALICE)) == (400, code)
    client.delete(upload, auth=ALICE)
    assert not [path for path in (tmp_path / "registry").rglob("*") if path.is_file()]


def test_two_uploads_of_the_same_blob(server: int) -> None:
    """Uploads of the same blob at the same time all succeed."""
    content = os.urandom(3_000_000)
    path = f"/v2/acme/app/blobs/uploads/?digest={digest_of(content)}"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, "POST", path, content), range(8)))
    assert [status for status, _, _ in answers] == [201] * 8
    assert ask(server, "GET", f"/v2/acme/app/blobs/{digest_of(content)}")[2] == content


# Uploads in chunks


def test_upload_in_chunks(client: FlaskClient) -> None:
    """An upload grows chunk by chunk, tells how far it is, and is a blob with the last one."""
    response = client.post("/v2/acme/app/blobs/uploads/", auth=ALICE)
    upload = response.headers["Location"]
    assert upload == f"/v2/acme/app/blobs/uploads/{response.headers['Docker-Upload-UUID']}"
    assert response.headers["Range"] == "0-0"
    first = client.patch(upload, data=BLOB[:5000], headers={"Content-Range": "0-4999"}, auth=ALICE)
    assert (first.status_code, first.headers["Range"]) == (202, "0-4999")
    second = client.patch(first.headers["Location"], data=BLOB[5000:6000], auth=ALICE)
    assert (second.status_code, second.headers["Range"]) == (202, "0-5999")
    status = client.get(upload, auth=ALICE)
    assert (status.status_code, status.headers["Range"]) == (204, "0-5999")
    assert status.headers["Location"] == upload
    last = {"Content-Range": f"6000-{len(BLOB) - 1}"}
    done = client.put(f"{upload}?digest={DIGEST}", data=BLOB[6000:], headers=last, auth=ALICE)
    assert (done.status_code, done.headers["Location"]) == (201, f"/v2/acme/app/blobs/{DIGEST}")
    assert get(client, done.headers["Location"]).data == BLOB
    assert error_of(client.get(upload, auth=ALICE)) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_upload_closed_with_nothing_more(client: FlaskClient) -> None:
    """The last request may bring no content, and the empty blob is a blob."""
    upload = start_upload(client)
    client.patch(upload, data=BLOB, auth=ALICE)
    assert client.put(f"{upload}?digest={DIGEST}", auth=ALICE).status_code == 201
    empty = digest_of(b"")
    assert client.put(f"{start_upload(client)}?digest={empty}", auth=ALICE).status_code == 201
    assert get(client, f"/v2/acme/app/blobs/{empty}").data == b""


@pytest.mark.parametrize(
    ("content_range", "expected"),
    [
        ("0-9", (416, "BLOB_UPLOAD_INVALID")),
        ("11-20", (416, "BLOB_UPLOAD_INVALID")),
        ("bytes 10-19/20", (416, "BLOB_UPLOAD_INVALID")),
        ("-", (416, "BLOB_UPLOAD_INVALID")),
        ("9" * 5000 + "-1", (416, "BLOB_UPLOAD_INVALID")),
        ("10-20", (400, "SIZE_INVALID")),
        ("10-5", (400, "SIZE_INVALID")),
    ],
)
def test_chunk_out_of_place(client: FlaskClient, content_range: str, expected: tuple[int, str]) -> None:
    """A chunk that is not the next one, or not as long as it says, is refused and changes nothing."""
    upload = start_upload(client)
    client.patch(upload, data=b"0123456789", auth=ALICE)
    headers = {"Content-Range": content_range}
    assert error_of(client.patch(upload, data=b"0123456789", headers=headers, auth=ALICE)) == expected
    assert client.get(upload, auth=ALICE).headers["Range"] == "0-9"


def test_upload_cancelled(client: FlaskClient) -> None:
    """An upload given up is unknown to every request."""
    upload = start_upload(client)
    assert client.delete(upload, auth=ALICE).status_code == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        response = client.open(f"{upload}?digest={DIGEST}", method=method, auth=ALICE)
        assert error_of(response) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_upload_of_another_repository(client: FlaskClient) -> None:
    """An upload belongs to the repository it began in, and its id cannot be another file's name."""
    upload = start_upload(client).rpartition("/")[2]
    for path in (
        f"acme/other/blobs/uploads/{upload}",
        "acme/app/blobs/uploads/..",
        "acme/app/blobs/uploads/_lock",
    ):
        assert error_of(client.patch(f"/v2/{path}", data=b"x", auth=ALICE)) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_abandoned_uploads_go(client: FlaskClient, tmp_path: Path) -> None:
    """What nobody touched for a day makes room when the next upload begins."""
    old, young = start_upload(client), start_upload(client)
    file = tmp_path / "registry/repositories/acme/app/_uploads" / old.rpartition("/")[2]
    os.utime(file, (0, 0))
    start_upload(client)
    assert client.get(old, auth=ALICE).status_code == 404
    assert client.get(young, auth=ALICE).status_code == 204


def test_chunked_transfer_encoding(port: int) -> None:
    """A body without Content-Length is taken by PATCH, by PUT, and for a manifest."""
    half = len(BLOB) // 2
    upload = ask(port, "POST", "/v2/acme/app/blobs/uploads/", b"")[1]["Location"]
    status, headers, _ = ask(port, "PATCH", upload, (BLOB[i : i + 100] for i in range(0, half, 100)))
    assert (status, headers["Range"]) == (202, f"0-{half - 1}")
    assert ask(port, "PUT", f"{upload}?digest={DIGEST}", iter([BLOB[half:]]))[0] == 201
    status, headers, content = ask(port, "GET", f"/v2/acme/app/blobs/{DIGEST}")
    assert (status, headers["Content-Length"], content) == (200, str(len(BLOB)), BLOB)


@pytest.mark.parametrize(
    "broken",
    [
        b"Content-Length: 200000\r\n\r\n" + b"x" * 70_000,
        b"Transfer-Encoding: chunked\r\n\r\n30000\r\n" + b"x" * 70_000,
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
    ids=["short", "short-chunk", "no-last-chunk", "no-chunk"],
)
def test_connection_dropped(port: int, broken: bytes) -> None:
    """After a connection that broke in a chunk the upload goes on from where it was before."""
    upload = ask(port, "POST", "/v2/acme/app/blobs/uploads/", b"")[1]["Location"]
    assert ask(port, "PATCH", upload, BLOB[:5000])[0] == 202
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC_ALICE['Authorization']}\r\n"
        connection.sendall(head.encode() + broken)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    last = {"Content-Range": f"5000-{len(BLOB) - 1}"}
    assert ask(port, "PUT", f"{upload}?digest={DIGEST}", BLOB[5000:], **last)[0] == 201


def test_two_requests_for_one_upload(server: int) -> None:
    """While one request writes to an upload, another is refused rather than mixed in."""
    content = os.urandom(500_000)
    upload = ask(server, "POST", "/v2/acme/app/blobs/uploads/", b"")[1]["Location"]
    other: list[int] = []

    def slowly() -> Iterator[bytes]:
        yield content[:250_000]
        until(lambda: ask(server, "GET", upload)[1]["Range"] != "0-0")
        other.append(ask(server, "PATCH", upload, b"mixed in")[0])
        yield content[250_000:]

    assert ask(server, "PATCH", upload, slowly())[0] == 202
    assert other == [409]
    assert ask(server, "PUT", f"{upload}?digest={digest_of(content)}", b"")[0] == 201


# Manifests


def test_manifest_comes_back(client: FlaskClient) -> None:
    """A manifest is had by tag and by digest, byte for byte and with its media type."""
    image = build_image({"hello": b"world"})
    push(client, image, "latest")
    response = put_manifest(client, image, "v1")
    assert response.headers["Location"] == "/v2/acme/app/manifests/v1"
    assert response.headers["Docker-Content-Digest"] == image.digest
    for reference in ("latest", "v1", image.digest):
        response = client.get(f"/v2/acme/app/manifests/{reference}")
        assert (response.status_code, response.data) == (200, image.manifest)
        assert response.content_type == image.media_type
        assert response.headers["Docker-Content-Digest"] == image.digest
        head = client.head(f"/v2/acme/app/manifests/{reference}")
        assert (head.status_code, head.content_length) == (200, len(image.manifest))


@pytest.mark.parametrize("reference", ["none", digest_of(b"none"), ".hidden", "x" * 129, "a%0ab"])
def test_manifest_unknown(client: FlaskClient, reference: str) -> None:
    """What was never pushed is unknown, whether it could be or not."""
    push(client, build_image({"a": b"a"}), "latest")
    for method in ("GET", "DELETE"):
        response = client.open(f"/v2/acme/app/manifests/{reference}", method=method, auth=ALICE)
        assert error_of(response) == (404, "MANIFEST_UNKNOWN")


def test_tag_that_cannot_be(client: FlaskClient) -> None:
    """A malformed tag or a digest of something else is refused."""
    image = build_image({"a": b"a"})
    for blob in image.blobs:
        push_blob(client, blob)
    assert error_of(put_manifest(client, image, ".hidden")) == (400, "MANIFEST_INVALID")
    assert error_of(put_manifest(client, image, digest_of(b"other"))) == (400, "DIGEST_INVALID")
    assert error_of(put_manifest(client, image, "sha256:abc")) == (400, "DIGEST_INVALID")
    assert error_of(client.get("/v2/acme/app/tags/list")) == (404, "NAME_UNKNOWN")


def test_several_tags_at_once(client: FlaskClient, pushes: list[dict[str, Any]]) -> None:
    """A manifest put by its digest gets every tag in the query, each of which is a push."""
    image = build_image({"a": b"a"})
    push(client, image, image.digest)
    assert pushes == []
    response = put_manifest(client, image, f"{image.digest}?tag=1.2&tag=1&tag=latest&tag=1")
    assert (response.status_code, response.headers["OCI-Tag"]) == (201, "1.2, 1, latest")
    assert [(each["tag"], each["digest"]) for each in pushes] == [(tag, image.digest) for tag in ("1.2", "1", "latest")]
    for tag in ("1.2", "1", "latest"):
        assert client.get(f"/v2/acme/app/manifests/{tag}").data == image.manifest
    assert error_of(put_manifest(client, image, f"{image.digest}?tag=2&tag=.hidden")) == (400, "MANIFEST_INVALID")
    assert "OCI-Tag" not in put_manifest(client, image, "3?tag=4").headers
    assert client.get("/v2/acme/app/tags/list").get_json()["tags"] == ["1", "1.2", "3", "latest"]


def test_referrers(client: FlaskClient, pushes: list[dict[str, Any]]) -> None:
    """A manifest with a subject, such as a signature, is kept and is no push."""
    image = build_image({"a": b"a"})
    push(client, image, image.digest)
    subject = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
    document = json.loads(image.manifest) | {"artifactType": "application/vnd.example.signature", "subject": subject}
    signature = Image(json.dumps(document).encode(), image.media_type)
    assert put_manifest(client, signature, digest_of(signature.manifest)).status_code == 201
    assert client.get(f"/v2/acme/app/manifests/{digest_of(signature.manifest)}").data == signature.manifest
    assert pushes == []


def test_manifest_before_its_content(client: FlaskClient, pushes: list[dict[str, Any]]) -> None:
    """A manifest is taken only when the repository has all it names; until then nothing was pushed."""
    image = build_image({"a": b"a"})
    index = build_index([image])
    push_blob(client, image.blobs[0])
    push(client, image, "latest", "acme/other")
    assert error_of(put_manifest(client, image, "latest")) == (404, "MANIFEST_BLOB_UNKNOWN")
    push_blob(client, image.blobs[1])
    assert error_of(put_manifest(client, index, "latest")) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert client.get("/v2/acme/app/manifests/latest").status_code == 404
    assert [told["repository"] for told in pushes] == ["acme/other"]


def test_layer_that_is_elsewhere(client: FlaskClient) -> None:
    """A layer that clients get from its own URLs need not be here; a config must be."""
    image = build_image({"a": b"a"})
    push_blob(client, image.blobs[0])
    document = json.loads(image.manifest)
    document["layers"][0]["urls"] = ["https://elsewhere.example/layer"]
    elsewhere = Image(json.dumps(document).encode(), image.media_type)
    assert put_manifest(client, elsewhere, "v1").status_code == 201
    document["config"] |= {"digest": DIGEST, "urls": ["https://elsewhere.example/config"]}
    elsewhere = Image(json.dumps(document).encode(), image.media_type)
    assert error_of(put_manifest(client, elsewhere, "v2")) == (404, "MANIFEST_BLOB_UNKNOWN")


VALID = json.loads(build_image({"a": b"a"}).manifest)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schemaVersion":' + b"9" * 5000 + b"}",
        b"[]",
        b"{}",
        json.dumps(VALID | {"schemaVersion": 1}).encode(),
        json.dumps(VALID | {"mediaType": "application/vnd.oci.image.index.v1+json"}).encode(),
        json.dumps(VALID | {"mediaType": ["a"]}).encode(),
        json.dumps(VALID | {"config": None}).encode(),
        json.dumps(VALID | {"config": {"digest": "../../../etc/passwd"}}).encode(),
        json.dumps(VALID | {"layers": {"a": 1}}).encode(),
        json.dumps(VALID | {"layers": ["a"]}).encode(),
    ],
    ids=range(14),
)
def test_manifest_invalid(client: FlaskClient, body: bytes) -> None:
    """What is not a manifest is refused, whatever it is."""
    response = put_manifest(client, Image(body, "application/vnd.oci.image.manifest.v1+json"), "latest")
    assert error_of(response) == (400, "MANIFEST_INVALID")


def test_manifest_media_type(client: FlaskClient) -> None:
    """Without Content-Type the manifest's own mediaType counts; other types than manifests' are refused."""
    image = build_image({"a": b"a"})
    for blob in image.blobs:
        push_blob(client, blob)
    path = "/v2/acme/app/manifests/latest"
    assert client.put(path, data=image.manifest, auth=ALICE).status_code == 201
    assert client.get(path).content_type == image.media_type
    untyped = json.loads(image.manifest)
    del untyped["mediaType"]
    for media_type in ("", "text/html", "application/vnd.docker.distribution.manifest.v1+json"):
        response = put_manifest(client, Image(json.dumps(untyped).encode(), media_type), "latest")
        assert error_of(response) == (400, "MANIFEST_INVALID")


def test_manifest_too_large(client: FlaskClient) -> None:
    """A manifest of more than 4 MiB is refused."""
    body = json.dumps(VALID).encode().ljust(4 * 1024 * 1024 + 1)
    response = put_manifest(client, Image(body, VALID["mediaType"]), "latest")
    assert error_of(response) == (413, "SIZE_INVALID")


def test_manifest_without_end(gunicorn: int) -> None:
    """A manifest that goes on and on is refused long before its end."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 20
            yield b" " * (1 << 20)

    with suppress(BrokenPipeError, ConnectionResetError):
        path, media_type = "/v2/acme/app/manifests/latest", {"Content-Type": VALID["mediaType"]}
        assert ask(gunicorn, "PUT", path, endless(), **media_type)[0] == 413
    assert sent < 64 << 20


def test_delete_tag_and_manifest(client: FlaskClient) -> None:
    """Deleting a tag leaves the manifest, deleting the manifest takes its tags and no others."""
    image, other = build_image({"a": b"a"}), build_image({"b": b"b"})
    for tag in ("one", "two", "three"):
        push(client, image, tag)
    push(client, other, "other")
    assert client.delete("/v2/acme/app/manifests/one", auth=ALICE).status_code == 202
    assert client.get("/v2/acme/app/tags/list").get_json()["tags"] == ["other", "three", "two"]
    assert client.delete(f"/v2/acme/app/manifests/{image.digest}", auth=ALICE).status_code == 202
    assert client.get("/v2/acme/app/tags/list").get_json()["tags"] == ["other"]
    for reference in ("two", image.digest):
        assert client.get(f"/v2/acme/app/manifests/{reference}").status_code == 404
    assert client.get("/v2/acme/app/manifests/other").status_code == 200


# Names and tags


@pytest.mark.parametrize("name", ["acme", "acme/app", "acme/a/b/c", "acme/a.b_c__d--e", "acme/blobs/uploads"])
def test_names(client: FlaskClient, name: str) -> None:
    """Names have one part, two or more, and may contain the words that follow names in paths."""
    image = build_image({"a": b"a"})
    push(client, image, "latest", name)
    assert client.get(f"/v2/{name}/manifests/latest").data == image.manifest
    assert client.get(f"/v2/{name}/tags/list").get_json() == {"name": name, "tags": ["latest"]}
    assert client.get(f"/v2/{name.replace('/', '%2F')}/tags/list").status_code == 200


@pytest.mark.parametrize(
    "name",
    ["..", "acme/../../x", "acme/%2e%2e/x", "Acme/app", "acme/_blobs", "acme/a%00b", "a" * 256, "acme/.x"],
)
def test_names_that_cannot_be(client: FlaskClient, tmp_path: Path, name: str) -> None:
    """A malformed name is refused before anything is looked up, and touches no file."""
    response = client.post(f"/v2/{name}/blobs/uploads/", auth=ALICE)
    assert error_of(response) == (400, "NAME_INVALID")
    assert error_of(client.get(f"/v2/{name}/blobs/{DIGEST}")) == (400, "NAME_INVALID")
    assert not (tmp_path / "registry").exists()


def test_tags_in_pages(client: FlaskClient) -> None:
    """Tags are sorted, and the Link of each page leads through all of them."""
    image = build_image({"a": b"a"})
    for tag in ("b", "a", "d", "c", "E"):
        push(client, image, tag)
    pages, path = [], "/v2/acme/app/tags/list?n=2"
    while path:
        response = client.get(path)
        pages.append(response.get_json()["tags"])
        path = response.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert pages == [["E", "a"], ["b", "c"], ["d"]]
    for query, expected in [("?n=0", []), ("?n=9", ["E", "a", "b", "c", "d"]), ("?last=c", ["d"])]:
        response = client.get(f"/v2/acme/app/tags/list{query}")
        assert (response.get_json()["tags"], "Link" in response.headers) == (expected, False)
    for wrong in ("x", "-1", "", "9" * 5000):
        assert client.get(f"/v2/acme/app/tags/list?n={wrong}").status_code == 400


def test_tags_of_no_repository(client: FlaskClient) -> None:
    """A repository that nothing was pushed to does not exist."""
    assert error_of(client.get("/v2/acme/none/tags/list")) == (404, "NAME_UNKNOWN")


# The signal


def test_a_tag_put_is_one_push(client: FlaskClient, pushes: list[dict[str, Any]]) -> None:
    """Each tag put is told once, put again too; a manifest put by digest is not. An index names its images."""
    images = [build_image({"a": b"a"}, architecture) for architecture in ("amd64", "arm64")]
    index = build_index(images)
    push(client, index, "latest")
    push(client, index, "latest")
    push(client, images[0], "one")
    of_index = {
        "repository": "acme/app",
        "tag": "latest",
        "digest": index.digest,
        "media_type": index.media_type,
        "images": (images[0].digest, images[1].digest),
        "pusher": "alice",
    }
    of_image = {"tag": "one", "digest": images[0].digest, "media_type": images[0].media_type, "images": ()}
    assert pushes == [of_index, of_index, of_index | of_image]


def test_signal_comes_after_everything(app: Flask, client: FlaskClient) -> None:
    """Who is told of a push can pull it, and finds the database open for writing."""
    seen: list[Any] = []

    def look(sender: Flask, repository: str, tag: str, **push: str) -> None:
        seen.append(client.get(f"/v2/{repository}/manifests/{tag}").status_code)
        with db.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE repositories SET star_count = 7")
        seen.append(db.session.get_one(models.Repository, repository).star_count)

    with image_pushed.connected_to(look, app):
        push(client, build_image({"a": b"a"}), "latest")
    assert seen == [200, 7]


# With skopeo


def test_skopeo_copies_there_and_back(skopeo: Callable[..., str], tmp_path: Path, pushes: list[dict[str, Any]]) -> None:
    """An image copied there, again, with a second tag, and back is the same; each tag put was a push."""
    digest = build_layout(tmp_path / "there", build_image({"hello": b"world" * 100_000}))
    for tag in ("latest", "latest", "v1"):
        skopeo("copy", "--dest-tls-verify=false", "--dest-creds=alice:alice",
               f"oci:{tmp_path / 'there'}:latest", f"{{registry}}/acme/app:{tag}")  # fmt: skip
    skopeo("copy", "--src-tls-verify=false", "{registry}/acme/app:v1", f"oci:{tmp_path / 'back'}:v1")
    [back] = json.loads((tmp_path / "back/index.json").read_bytes())["manifests"]
    assert back["digest"] == digest
    assert [(told["tag"], told["digest"]) for told in pushes] == [
        ("latest", digest), ("latest", digest), ("v1", digest)
    ]  # fmt: skip


def test_skopeo_copies_an_index(skopeo: Callable[..., str], tmp_path: Path, pushes: list[dict[str, Any]]) -> None:
    """A multi-platform image copied there and back is the same, and was one push; so is a moved one."""
    index = build_index([build_image({"a": b"a"}, name) for name in ("amd64", "arm64")])
    build_layout(tmp_path / "there", index)
    skopeo("copy", "--all", "--dest-tls-verify=false", "--dest-creds=alice:alice",
           f"oci:{tmp_path / 'there'}:latest", "{registry}/acme/team/app:multi")  # fmt: skip
    skopeo("copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "--dest-creds=bob:bob",
           "{registry}/acme/team/app:multi", "{registry}/bob/app:multi")  # fmt: skip
    skopeo("copy", "--all", "--src-tls-verify=false", "{registry}/bob/app:multi", f"oci:{tmp_path / 'back'}:x")
    [back] = json.loads((tmp_path / "back/index.json").read_bytes())["manifests"]
    assert back["digest"] == index.digest
    assert [(told["repository"], told["tag"], told["digest"], told["pusher"]) for told in pushes] == [
        ("acme/team/app", "multi", index.digest, "alice"),
        ("bob/app", "multi", index.digest, "bob"),
    ]


def test_skopeo_inspects_lists_and_deletes(skopeo: Callable[..., str], tmp_path: Path) -> None:
    """What else skopeo can do works too, and with Docker's media types as with the OCI's."""
    build_layout(tmp_path / "there", build_image({"a": b"a"}))
    skopeo("copy", "--format=v2s2", "--dest-tls-verify=false", "--dest-creds=alice:alice",
           f"oci:{tmp_path / 'there'}:latest", "{registry}/acme/app:docker")  # fmt: skip
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", "{registry}/acme/app:docker"))
    assert inspected["RepoTags"] == ["docker"]
    skopeo("delete", "--tls-verify=false", "--creds=alice:alice", "{registry}/acme/app:docker")
    assert json.loads(skopeo("list-tags", "--tls-verify=false", "{registry}/acme/app"))["Tags"] == []


# Webhooks and start


def test_webhooks_are_the_owners(client: FlaskClient) -> None:
    """The webhooks of a repository are there for its owner and for nobody else."""
    push(client, build_image({"a": b"a"}), "latest")
    path = "/v2/repositories/acme/app/webhooks/"
    anonymous = client.get(path)
    assert (anonymous.status_code, anonymous.headers["WWW-Authenticate"]) == (
        401,
        'Basic realm="example registry"',
    )
    assert client.get(path, auth=("alice", "bob")).status_code == 401
    assert client.get(path, auth=BOB).status_code in (403, 404)
    assert client.get(path, auth=ALICE).status_code == 200


def test_processes_start_together(database_uri: str, tmp_path: Path) -> None:
    """Web and worker processes that start at the same moment on an empty database all come up."""
    env = environment(tmp_path) | {"FLASK_SQLALCHEMY_DATABASE_URI": database_uri}
    code = "from example_app import create_app; create_app()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=env, cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(4)
    ]
    results = [(process.communicate(timeout=60)[1].decode(), process.returncode) for process in processes]
    assert results == [("", 0)] * 4


def test_secret_key_must_be_given(tmp_path: Path) -> None:
    """There is no key to sign with that everybody knows."""
    with pytest.raises(RuntimeError, match="SECRET_KEY"):
        create_app({**settings(tmp_path), "SECRET_KEY": None})
