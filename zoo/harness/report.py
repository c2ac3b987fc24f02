"""What a long run says while it goes on: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 10.0


class Say(Protocol):
    """Receives one row of metrics a step."""

    def __call__(self, row: dict[str, Any], /) -> None: ...


def summary(row: dict[str, Any], rate: float) -> str:
    """`step 12  loss 0.031  length 15.2  1,234 tok/s` for one row."""
    losses = " ".join(f"{key.split('.', 2)[2]} {value:.4g}" for key, value in row.items() if key.startswith("loss."))
    rewards = " ".join(f"{key.split('.')[1]} {value:.0%}" for key, value in row.items() if key.startswith("reward."))
    lengths = " ".join(f"length {value:.0f}" for key, value in list(row.items()) if key.startswith("length."))
    return "  ".join(part for part in (f"step {row['step']}", losses, rewards, lengths.split("  ")[0], f"{rate:,.0f} tok/s") if part)


@contextmanager
def progress_of(console: Console | None, title: str, start: float) -> Iterator[Say]:
    """A reporter for one cell; `start` is the share already done. `console` None is silent."""
    began, tokens, last = time.monotonic(), 0, 0.0
    if console is None:
        yield lambda row: None
        return
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TimeRemainingColumn(),
                   console=console, transient=True)  # fmt: skip
    live = console.is_terminal
    task = bar.add_task(title, total=1.0)
    bar.update(task, completed=start)

    def say(row: dict[str, Any]) -> None:
        nonlocal tokens, last
        tokens += row["tokens"]
        elapsed = max(time.monotonic() - began, 1e-9)
        text = summary(row, tokens / elapsed)
        if live:
            bar.update(task, completed=row["progress"], description=f"{title}  {text}")
        elif time.monotonic() - last > LINE_EVERY or row["progress"] >= 1.0:
            last = time.monotonic()
            done = max(row["progress"] - start, 1e-9)
            left = elapsed * (1.0 - row["progress"]) / done
            console.print(f"{title}  {row['progress']:4.0%}  {text}  eta {left:.0f} s", highlight=False, soft_wrap=True)

    if live:
        with bar:
            yield say
    else:
        yield say
