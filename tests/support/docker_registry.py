"""Debian's docker-registry, which is CNCF Distribution, and skopeo to drive it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from example_app.image import Image, build_image, build_layout

from .marks import TOKENS
from .processes import PROJECT, free_port, until

SOURCES_PAGE = PROJECT / "docs" / "sources.md"


@dataclass
class DockerRegistry:
    """A registry that runs below `folder`, and sends its events to each of `urls`, as `docs/sources.md` says.

    It does not ignore events that are no pushes unless it is told to.
    """

    folder: Path
    urls: Sequence[str]
    timeout: str = "5s"
    ignoring: bool = False
    port: int = field(default_factory=free_port)

    @contextmanager
    def running(self) -> Iterator[DockerRegistry]:
        config = self.folder / "registry.yml"
        config.write_text(self._config())
        with (self.folder / "registry.log").open("wb") as log:
            program = str(shutil.which("docker-registry"))
            process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
        try:
            until(self._answers, seconds=60)
            yield self
        finally:
            process.kill()
            process.wait()

    def _config(self) -> str:
        recipe = SOURCES_PAGE.read_text("utf-8").split("```yaml\n")[1].split("```")[0]
        before, between, endpoint = recipe.partition("  endpoints:\n")
        if not self.ignoring:
            endpoint = endpoint.partition("      ignore:\n")[0]
        endpoint = endpoint.replace("<token>", TOKENS["distribution"])
        endpoint = endpoint.replace("timeout: 5s", f"timeout: {self.timeout}").replace("backoff: 1s", "backoff: 100ms")
        url = "https://hooks.example.com/hubhooks/sources/distribution/"
        assert url in endpoint
        endpoints = [
            endpoint.replace(url, each).replace("name: hubhooks", f"name: app-{number}")
            for number, each in enumerate(self.urls)
        ]
        return "\n".join(
            [
                "version: 0.1",
                "log: {level: warn}",
                f"storage: {{filesystem: {{rootdirectory: {self.folder / 'data'}}}, delete: {{enabled: true}}}}",
                f"http: {{addr: '127.0.0.1:{self.port}'}}",
                before + between + "".join(endpoints),
            ]
        )

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/v2/", timeout=5).ok
        except requests.ConnectionError:
            return False

    def push(self, name: str, image: Image | None = None) -> str:
        """Push an image, by default a small one of its own, as `acme/app:latest`; returns its digest."""
        layout = self.folder / "layout" / name.replace("/", "_").replace(":", "_")
        digest = build_layout(layout, image or build_image({"name": name.encode()}))
        self.skopeo("copy", "--all", f"oci:{layout}:latest", f"docker://127.0.0.1:{self.port}/{name}")
        return digest

    def copy(self, source: str, target: str) -> None:
        """Copy an image within the registry, from one `acme/app:latest` to another."""
        here = f"docker://127.0.0.1:{self.port}"
        self.skopeo("copy", "--all", f"{here}/{source}", f"{here}/{target}")

    def pull(self, name: str) -> None:
        self.skopeo("copy", f"docker://127.0.0.1:{self.port}/{name}", f"oci:{self.folder / 'pulled'}:latest")

    def delete(self, name: str) -> None:
        self.skopeo("delete", f"docker://127.0.0.1:{self.port}/{name}")

    def skopeo(self, command: str, *arguments: str) -> None:
        insecure = {"copy": ["--src-tls-verify=false", "--dest-tls-verify=false"], "delete": ["--tls-verify=false"]}
        words = ["skopeo", "--insecure-policy", command, *insecure[command], *arguments]
        result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
