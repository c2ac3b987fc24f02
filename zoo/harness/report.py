"""Who follows a run while it goes on (a screen, a tracker, a parent process), and what each of its steps says in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

EVENTS = ("say", "begin", "step", "evaluating", "end", "lost")


class Listener:
    """Hears how the cells of a run go on; each method may do nothing. A cell is named by its method and its seed."""

    def say(self, text: str) -> None:
        """Some line about no cell in particular."""

    def begin(self, method: str, seed: int, progress: float) -> None:
        """A cell starts, or goes on from this share of its budget."""

    def step(self, method: str, seed: int, row: dict[str, Any]) -> None:
        """One optimizer step: its row of metrics, with `step` and `progress`."""

    def evaluating(self, method: str, seed: int) -> None:
        """Training is over, the suites begin."""

    def end(self, method: str, seed: int, status: str, message: str = "") -> None:
        """The cell is recorded."""

    def lost(self, method: str, seed: int) -> None:
        """The process of the cell is gone; whoever takes the cell up begins it again."""

    def close(self) -> None:
        """Nothing more will come."""


class Several(Listener):
    """Hands everything to each of these in turn."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = list(listeners)

    def say(self, text: str) -> None:
        for each in self.listeners:
            each.say(text)

    def begin(self, method: str, seed: int, progress: float) -> None:
        for each in self.listeners:
            each.begin(method, seed, progress)

    def step(self, method: str, seed: int, row: dict[str, Any]) -> None:
        for each in self.listeners:
            each.step(method, seed, row)

    def evaluating(self, method: str, seed: int) -> None:
        for each in self.listeners:
            each.evaluating(method, seed)

    def end(self, method: str, seed: int, status: str, message: str = "") -> None:
        for each in self.listeners:
            each.end(method, seed, status, message)

    def lost(self, method: str, seed: int) -> None:
        for each in self.listeners:
            each.lost(method, seed)

    def close(self) -> None:
        for each in self.listeners:
            each.close()


class Endings(Listener):
    """How each cell ended last."""

    def __init__(self) -> None:
        self.statuses: dict[tuple[str, int], str] = {}

    def end(self, method: str, seed: int, status: str, message: str = "") -> None:
        self.statuses[method, seed] = status


class Wire(Listener):
    """Everything as plain events, for another process: `send` receives mappings that `deliver` takes. Steps come at most every so many seconds
    for each cell, and the last one always."""

    def __init__(self, send: Callable[[dict[str, Any]], None], every: float = 1.0) -> None:
        self.send, self.every = send, every
        self._sent: dict[tuple[str, int], float] = {}

    def say(self, text: str) -> None:
        self.send({"event": "say", "text": text})

    def begin(self, method: str, seed: int, progress: float) -> None:
        self.send({"event": "begin", "method": method, "seed": seed, "progress": progress})

    def step(self, method: str, seed: int, row: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._sent.get((method, seed), -self.every) >= self.every or row["progress"] >= 1.0:
            self._sent[method, seed] = now
            self.send({"event": "step", "method": method, "seed": seed, "row": shown(row)})

    def evaluating(self, method: str, seed: int) -> None:
        self.send({"event": "evaluating", "method": method, "seed": seed})

    def end(self, method: str, seed: int, status: str, message: str = "") -> None:
        self.send({"event": "end", "method": method, "seed": seed, "status": status, "message": message})

    def lost(self, method: str, seed: int) -> None:
        self.send({"event": "lost", "method": method, "seed": seed})


def deliver(event: dict[str, Any], listener: Listener) -> None:
    """Tell a listener what came through a wire; anything else is left."""
    if event.get("event") in EVENTS:
        getattr(listener, event["event"])(**{name: value for name, value in event.items() if name != "event"})


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The part of a step's row that lines and wires carry."""
    return {key: value for key, value in row.items() if key in ("step", "progress") or key.startswith(("loss.", "reward.", "length."))}


def summary(row: dict[str, Any]) -> str:
    """`step 12  reverse_kl 0.031  answer 40%  length 15` for one row."""
    losses = " ".join(f"{key.split('.', 2)[2]} {value:.4g}" for key, value in row.items() if key.startswith("loss."))
    rewards = " ".join(f"{key.split('.')[1]} {value:.0%}" for key, value in row.items() if key.startswith("reward."))
    length = next((f"length {value:.0f}" for key, value in row.items() if key.startswith("length.")), "")
    return "  ".join(part for part in (f"step {row['step']}", losses, rewards, length) if part)
