"""The routes of the OCI distribution specification, version 1: pull, push, tags and deletion.

<https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md>. Anybody may pull, the owner may
push. Every `Location` is a path, which the specification allows, so none is built from the `Host` header.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, g, jsonify, request, send_file, url_for
from werkzeug.exceptions import HTTPException

from example_app import bodies, errors, models
from example_app.auth import owner_of, sign_in_first, signed_in
from example_app.errors import RegistryError
from example_app.manifests import Manifest, parse
from example_app.storage import TAG, RepositoryFiles, is_digest
from flask_hubhooks.signals import image_pushed

LARGEST_MANIFEST = 4 * 1024 * 1024  # what the specification tells registries to take

registry = Blueprint("registry", __name__, url_prefix="/v2")
registry.register_error_handler(HTTPException, errors.answer)


def files_of(name: str) -> RepositoryFiles:
    """The content of the repository called `name`."""
    return RepositoryFiles(Path(current_app.config["REGISTRY_ROOT"]).resolve(), name)


@registry.url_value_preprocessor
def open_repository(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Give each route the repository itself for the name in its path."""
    if values and "name" in values:
        values["repository"] = files_of(values.pop("name"))


@registry.before_request
def authorize() -> None:
    """Anybody may pull what is not private; all else is for the owner."""
    g.user = signed_in()
    arguments = request.view_args or {}
    if "repository" not in arguments:  # the version check, where clients find out how to sign in
        allowed = g.user is not None
    elif request.method in ("GET", "HEAD") and "upload" not in arguments:
        allowed = may_pull(arguments["repository"].name)
    else:
        allowed = owner_of(arguments["repository"].name) == g.user
    if not allowed:
        raise sign_in_first() if g.user is None else RegistryError("DENIED")


def may_pull(name: str) -> bool:
    """Whether the user may read what a repository holds."""
    row = models.find(name)
    return row is None or not row.is_private or owner_of(name) == g.user


@registry.get("/", strict_slashes=False)
def check_version() -> dict[str, Any]:
    """Say that this is a registry, and that name and password are right."""
    return {}


@registry.get("/<path:name>/tags/list")
def list_tags(repository: RepositoryFiles) -> Response:
    """The tags of a repository, all or `n` of them after `last`."""
    if models.find(repository.name) is None:
        raise RegistryError("NAME_UNKNOWN", repository.name)
    tags = [tag for tag in repository.tags() if tag > request.args.get("last", "")]
    count = _page_size(len(tags))
    response = jsonify(name=repository.name, tags=tags[:count])
    if 0 < count < len(tags):
        rest = url_for(".list_tags", name=repository.name, n=count, last=tags[count - 1])
        response.headers["Link"] = f'<{rest}>; rel="next"'
    return response


@registry.get("/<path:name>/manifests/<reference>")
def get_manifest(repository: RepositoryFiles, reference: str) -> Response:
    """A manifest by tag or digest, as it was pushed."""
    manifest = repository.manifest(reference)
    response = Response(manifest.body, content_type=manifest.media_type)
    response.headers["Docker-Content-Digest"] = manifest.digest
    return response


@registry.put("/<path:name>/manifests/<reference>")
def put_manifest(repository: RepositoryFiles, reference: str) -> Response:
    """Take a manifest by tag, or by digest with any number of `tag`s in the query.

    Each tag that is put is a push: its signal goes out once all is kept. A manifest without a tag is none, be it one of
    an index's images or a signature, which names its `subject`.
    """
    tags = list(dict.fromkeys(request.args.getlist("tag"))) if is_digest(reference) else [reference]
    for tag in tags:
        if not TAG.fullmatch(tag):
            raise RegistryError("MANIFEST_INVALID", f"{tag!r} cannot be a tag")
    manifest, references = parse(bodies.whole(LARGEST_MANIFEST), request.mimetype)
    if is_digest(reference) and reference != manifest.digest:
        raise RegistryError("DIGEST_INVALID", reference)
    repository.put_manifest(manifest, references, tags)
    models.ensure(repository.name)
    images = tuple(each.digest for each in references if each.is_manifest)
    for tag in tags:
        _tell(repository.name, tag, manifest, images)
    location = url_for(".get_manifest", name=repository.name, reference=reference)
    response = _answer(201, location, {"Docker-Content-Digest": manifest.digest})
    if is_digest(reference) and tags:
        response.headers["OCI-Tag"] = ", ".join(tags)
    return response


@registry.delete("/<path:name>/manifests/<reference>")
def delete_manifest(repository: RepositoryFiles, reference: str) -> tuple[str, int]:
    """Delete a tag, or a manifest and its tags."""
    repository.delete_manifest(reference)
    return "", 202


@registry.get("/<path:name>/blobs/<digest>")
def get_blob(repository: RepositoryFiles, digest: str) -> Response:
    """A blob, or the range of it that was asked for."""
    path = repository.blob(digest)
    try:
        response = send_file(path, mimetype="application/octet-stream", conditional=True, etag=digest)
    except FileNotFoundError:
        raise RegistryError("BLOB_UNKNOWN", digest) from None
    response.headers["Docker-Content-Digest"] = digest
    return response


@registry.delete("/<path:name>/blobs/<digest>")
def delete_blob(repository: RepositoryFiles, digest: str) -> tuple[str, int]:
    """Delete a blob from this repository."""
    repository.delete_blob(digest)
    return "", 202


@registry.post("/<path:name>/blobs/uploads/", strict_slashes=False)
def start_upload(repository: RepositoryFiles) -> Response:
    """Begin an upload; with `mount` and `from`, or with `digest` and the blob itself, it is over at once."""
    if _mounted(repository):
        return _created(repository, request.args["mount"])
    digest = request.args.get("digest")
    if digest is None:
        return _standing(repository, repository.uploads.start(), 202)
    blob = repository.blob(digest)
    upload = repository.uploads.start()
    try:
        repository.uploads.finish(upload, digest, blob, bodies.pieces())
    except Exception:
        with suppress(RegistryError):  # a wrong digest has ended it already
            repository.uploads.cancel(upload)
        raise
    return _created(repository, digest)


@registry.get("/<path:name>/blobs/uploads/<upload>")
def get_upload(repository: RepositoryFiles, upload: str) -> Response:
    """How far an upload has come."""
    return _standing(repository, upload, 204)


@registry.patch("/<path:name>/blobs/uploads/<upload>")
def continue_upload(repository: RepositoryFiles, upload: str) -> Response:
    """Take the next chunk."""
    repository.uploads.append(upload, bodies.pieces(), bodies.start())
    return _standing(repository, upload, 202)


@registry.put("/<path:name>/blobs/uploads/<upload>")
def finish_upload(repository: RepositoryFiles, upload: str) -> Response:
    """Take the last chunk, if there is one, and make the upload a blob."""
    digest = request.args.get("digest", "")
    blob = repository.blob(digest)
    repository.uploads.finish(upload, digest, blob, bodies.pieces(), bodies.start())
    return _created(repository, digest)


@registry.delete("/<path:name>/blobs/uploads/<upload>")
def cancel_upload(repository: RepositoryFiles, upload: str) -> tuple[str, int]:
    """Give an upload up."""
    repository.uploads.cancel(upload)
    return "", 204


def _page_size(default: int) -> int:
    asked = request.args.get("n", str(default))
    if not (asked.isascii() and asked.isdecimal() and len(asked) < 10):
        raise RegistryError("UNSUPPORTED", "n is not a number")
    return int(asked)


def _tell(repository: str, tag: str, manifest: Manifest, images: tuple[str, ...]) -> None:
    image_pushed.send(
        current_app._get_current_object(),  # type: ignore[attr-defined]
        repository=repository,
        tag=tag,
        digest=manifest.digest,
        media_type=manifest.media_type,
        images=images,
        pusher=g.user,
    )


def _mounted(repository: RepositoryFiles) -> bool:
    """Whether a blob was to be mounted and now is; if it cannot be, the client uploads it."""
    digest, name = request.args.get("mount"), request.args.get("from")
    return bool(digest and name and may_pull(name) and repository.mount(digest, files_of(name)))


def _standing(repository: RepositoryFiles, upload: str, status: int) -> Response:
    location = url_for(".get_upload", name=repository.name, upload=upload)
    last = max(repository.uploads.size(upload) - 1, 0)
    return _answer(status, location, {"Docker-Upload-UUID": upload, "Range": f"0-{last}"})


def _created(repository: RepositoryFiles, digest: str) -> Response:
    location = url_for(".get_blob", name=repository.name, digest=digest)
    return _answer(201, location, {"Docker-Content-Digest": digest})


def _answer(status: int, location: str, headers: dict[str, str]) -> Response:
    return Response(status=status, headers={"Location": location, **headers})
