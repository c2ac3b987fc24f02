"""The screen of a run: a line for each cell that is under way and one for all of them; live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from zoo.harness.report import Listener, Wire, summary

LINE_EVERY = 10.0  # seconds between the lines of one cell, and of the totals, outside a terminal
LINES_AT_ONCE = 8  # cells that say something at one time outside a terminal, those that were silent longest


@dataclass
class Line:
    """One cell that is under way."""

    name: str
    start: float
    began: float
    progress: float
    text: str = "starting"
    printed: float = 0.0

    def rate(self, now: float) -> float:
        """Share of the budget a second since it began here."""
        return (self.progress - self.start) / max(now - self.began, 1e-9)

    def shown(self, now: float, budget: int) -> str:
        """Share, last step, supervised tokens a second, time left."""
        rate = self.rate(now)
        speed = f"  {rate * budget:,.0f} tok/s  eta {lasting((1.0 - self.progress) / rate)}" if rate > 0.0 and self.progress < 1.0 else ""
        return f"{self.name}  {self.progress:4.0%}  {self.text}{speed}"


class Board(Listener):
    """Follows so many cells, each with the same budget of supervised tokens. Lines go to `say`; a `console` that is a terminal shows them live.
    May be told from several threads."""

    def __init__(
        self, say: Callable[[str], None], *, cells: int, budget: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.out, self.cells, self.budget, self.clock = say, cells, budget, clock
        self.lines: dict[tuple[str, int], Line] = {}
        self.ended: dict[tuple[str, int], str] = {}
        self.began = self.printed = clock()
        self.gone = 0.0  # budgets worth of training that cells which have ended did here
        self._lock = threading.RLock()
        self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=2, transient=True) if console and console.is_terminal else None
        if self._live is not None:
            self._live.start()

    def say(self, text: str) -> None:
        self.out(text)

    def begin(self, method: str, seed: int, progress: float) -> None:
        with self._lock:
            name, now = f"{method} (seed {seed})", self.clock()
            known = self.lines.get((method, seed))
            self.gone += known.progress - known.start if known else 0.0
            self.lines[method, seed] = Line(name, progress, now, progress, printed=now)
            self.ended.pop((method, seed), None)
            self.out(name if progress == 0.0 else f"{name}  goes on from {progress:.0%}")

    def step(self, method: str, seed: int, row: dict[str, Any]) -> None:
        with self._lock:
            line = self.lines.get((method, seed))
            if line is not None:
                line.progress, line.text = row["progress"], summary(row)
            self._tick()

    def evaluating(self, method: str, seed: int) -> None:
        with self._lock:
            if (line := self.lines.get((method, seed))) is not None:
                line.text = "evaluating"
            self._tick()

    def end(self, method: str, seed: int, status: str, message: str = "") -> None:
        with self._lock:
            line = self.lines.pop((method, seed), None)
            self.ended[method, seed] = status
            took = f" in {lasting(self.clock() - line.began)}" if line else ""
            self.gone += line.progress - line.start if line else 0.0
            self.out(f"{method} (seed {seed})  {status}{took}" + (f": {message}" if message else ""))
            if self._live is None and self.cells > 1:
                self._total()

    def lost(self, method: str, seed: int) -> None:
        with self._lock:
            line = self.lines.pop((method, seed), None)
            self.gone += line.progress - line.start if line else 0.0

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def total(self) -> str:
        """`3 of 12 cells done, 1 failed, 2 under way  5,210 tok/s  eta 4 min`."""
        now, good = self.clock(), sum(status in ("success", "diverged") for status in self.ended.values())
        failed = len(self.ended) - good
        counts = [f"{good} of {self.cells} cells done", f"{failed} failed" if failed else "", f"{len(self.lines)} under way" if self.lines else ""]
        trained = self.gone + sum(line.progress - line.start for line in self.lines.values())
        left = self.cells - len(self.ended) - sum(line.progress for line in self.lines.values())
        rate = trained / max(now - self.began, 1e-9)
        speed = f"  {rate * self.budget:,.0f} tok/s  eta {lasting(left / rate)}" if rate > 0.0 and left > 0.0 else ""
        return ", ".join(filter(None, counts)) + speed

    def _total(self) -> None:
        self.out(self.total())

    def _tick(self) -> None:
        """Outside a terminal: the lines that are due, and the totals behind them."""
        now = self.clock()
        if self._live is not None or now - self.printed < LINE_EVERY:
            return
        due = sorted((line for line in self.lines.values() if now - line.printed >= LINE_EVERY), key=lambda line: line.printed)
        for line in due[:LINES_AT_ONCE]:
            line.printed = now
            self.out(line.shown(now, self.budget))
        if self.cells > 1:
            self._total()
        self.printed = now

    def _picture(self) -> Group:
        with self._lock:
            now = self.clock()
            lines = [Text(line.shown(now, self.budget), no_wrap=True, overflow="ellipsis") for line in self.lines.values()]
            return Group(*lines, *([Text(self.total(), style="bold")] if self.cells > 1 else []))


def screen(console: Console, cells: int, budget: int, worker: bool = False) -> Listener:
    """What a console shows of so many cells: a board, or for the process above a worker lines of JSON."""
    if worker:
        return Wire(lambda event: print(json.dumps(event), flush=True))
    return Board(lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True), cells=cells, budget=budget, console=console)


def lasting(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
