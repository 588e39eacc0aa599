"""How the story looks: numbered steps, aligned lines, tables, and colours where there is a terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from typing import Any, TextIO

INDENT = "   "
COLOURS = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Terminal:
    """Writes each line at once, also into a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._steps = 0
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._colours = stream.isatty() and not plain
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")

    def step(self, text: str) -> None:
        """Begin the next step of the story."""
        self._steps += 1
        self.line()
        self.line(f"{self._steps}  {text}", colour="bold", indent="")

    def line(self, text: str = "", colour: str = "", indent: str = INDENT) -> None:
        """Write one line."""
        print(f"{indent}{self.coloured(text, colour)}" if text else "", file=self._stream, flush=True)

    def coloured(self, text: str, colour: str) -> str:
        """The text in a colour, where there are colours."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour and self._colours else text

    def request(self, method: str, path: str, status: int) -> None:
        """Write what was asked of the registry, and the status of its answer."""
        self.line(f"{method:<4}  {path:<69}  {self.coloured(str(status), 'green' if status < 300 else 'red')}")

    def document(self, content: Mapping[str, Any], indent: str) -> None:
        """Write JSON for people."""
        for line in json.dumps(content, indent=2, ensure_ascii=False).splitlines():
            self.line(line, "cyan", indent)

    def table(self, rows: Sequence[Sequence[object]]) -> None:
        """Write rows in columns; the first row is the heading."""
        cells = [[str(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for number, row in enumerate(cells):
            text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line(text.rstrip(), "" if number else "bold")
