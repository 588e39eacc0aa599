"""Debian's docker-registry, which is CNCF Distribution, and skopeo to drive it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from example_app.image import Image, build_image, build_layout

from .marks import TOKENS
from .processes import free_port, until


@dataclass
class DockerRegistry:
    """A registry that runs below `folder`, and sends its events to each of `urls`."""

    folder: Path
    urls: Sequence[str]
    timeout: str = "1s"
    port: int = field(default_factory=free_port)

    @contextmanager
    def running(self) -> Iterator[DockerRegistry]:
        config = self.folder / "registry.yml"  # JSON is YAML
        config.write_text(json.dumps(self._config()))
        with (self.folder / "registry.log").open("wb") as log:
            program = str(shutil.which("docker-registry"))
            process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
        try:
            until(self._answers, seconds=60)
            yield self
        finally:
            process.kill()
            process.wait()

    def _config(self) -> dict[str, Any]:
        endpoint: Mapping[str, object] = {
            "headers": {"Authorization": [f"Bearer {TOKENS['distribution']}"]},
            "timeout": self.timeout,
            "threshold": 5,
            "backoff": "100ms",
        }
        endpoints = [{"name": f"app {number}", "url": url, **endpoint} for number, url in enumerate(self.urls)]
        return {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
            "notifications": {"events": {"includereferences": True}, "endpoints": endpoints},
        }

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
