"""What was asked of an endpoint and what it cost; and the answers, kept by request."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from zoo.errors import ZooError
from zoo.harness.endpoint.source import EndpointSource

MILLION = 1_000_000


class SpendingLimit(ZooError):
    """The next request could cost more than may be spent."""


@dataclass
class Account:
    """What one run used; `cost` in the currency of the prices. Where the endpoint gives no count, or one that no honest tokenizer could give,
    and where an answer never came, it is the most that it can have been."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    served: dict[str, int] = field(default_factory=dict)


@dataclass
class Spent:
    """The file's content: what is spent, and what the requests under way may cost at most, by who sent them."""

    cost: float = 0.0
    tokens: int = 0
    aside: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def most(self) -> tuple[float, int]:
        """Cost and tokens once all that is under way has come."""
        return self.cost + sum(c for c, _ in self.aside.values()), self.tokens + sum(t for _, t in self.aside.values())


class Ledger:
    """Spending on one endpoint over all runs, in a file beside the cache, so that a new run begins where the last one ended, and runs at the
    same time know of each other's requests. What a process that died had set aside counts as spent."""

    def __init__(self, source: EndpointSource, folder: Path) -> None:
        self.source, self.file = source, folder / "spent.json"
        self.lock, self.shared = threading.Lock(), FileLock(folder / "spent.lock")
        self.account, self.name = Account(), f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def before(self, prompt_tokens: int, most_out: int) -> tuple[float, int]:
        """Set aside the most that a request can cost.

        Raises:
            SpendingLimit: it might pass a limit.
        """
        cost, tokens = self._cost(prompt_tokens, most_out), prompt_tokens + most_out
        with self.lock, self.shared:
            known = self._read()
            (spent, used), limit, most = known.most, self.source.spend_limit, self.source.token_limit
            if limit is not None and spent + cost > limit:
                raise SpendingLimit(f"endpoint {self.source.model}: {spent:.4g} of {limit:g} is spent and the next request may cost {cost:.2g}; raise "
                                    f"spend_limit, or remove {self.file.name} from its cache if the bill says otherwise")  # fmt: skip
            if most is not None and used + tokens > most:
                raise SpendingLimit(f"endpoint {self.source.model}: {used} of {most} tokens are used and the next request may take {tokens}; raise token_limit")
            self._write(known, cost, tokens)
        return cost, tokens

    def after(self, aside: tuple[float, int], prompt_tokens: int, completion_tokens: int, model: str | None) -> None:
        """Write down what a request took."""
        with self.lock, self.shared:
            cost, account = self._cost(prompt_tokens, completion_tokens), self.account
            account.prompt_tokens += prompt_tokens
            account.completion_tokens += completion_tokens
            account.cost += cost
            if model is not None:
                account.served[model] = account.served.get(model, 0) + 1
            known = self._read()
            known.cost, known.tokens = known.cost + cost, known.tokens + prompt_tokens + completion_tokens
            self._write(known, -aside[0], -aside[1])

    def _write(self, known: Spent, cost: float, tokens: int) -> None:
        """The file with what this run has under way changed by so much."""
        own_cost, own_tokens = known.aside.pop(self.name, (0.0, 0))
        if own_tokens + tokens > 0:
            known.aside[self.name] = (max(0.0, own_cost + cost), own_tokens + tokens)
        write_json(self.file, asdict(known))

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.source.price_in + tokens_out * self.source.price_out) / MILLION

    def _read(self) -> Spent:
        if not self.file.is_file():
            return Spent()
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            aside = {str(name): (float(cost), int(tokens)) for name, (cost, tokens) in found.get("aside", {}).items()}
            known = Spent(float(found["cost"]), int(found["tokens"]), aside)
            numbers = [known.cost, known.tokens, *(number for both in aside.values() for number in both)]
            if not all(math.isfinite(number) and number >= 0 for number in numbers):
                raise ValueError("no amount")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise ZooError(f'{self.file}: what was spent can\'t be read, so nothing more is; write {{"cost": ..., "tokens": ...}} from the bill') from None
        for name in [name for name in known.aside if name != self.name and not _alive(name)]:
            cost, tokens = known.aside.pop(name)
            known.cost, known.tokens = known.cost + cost, known.tokens + tokens
        return known

    def figures(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self.account)


def _alive(name: str) -> bool:
    """Whether the run that sent requests may still be there; of another machine nobody knows."""
    host, _, rest = name.partition(":")
    number = rest.partition(":")[0]
    if host != socket.gethostname() or not number.isdigit():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Cache:
    """Answers by request, a file each; a damaged file counts as none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, request: Mapping[str, Any]) -> Path:
        """Where a request's answer is kept."""
        key = hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"

    def get(self, request: Mapping[str, Any]) -> str | None:
        """The text that was answered to the very same request."""
        try:
            found = json.loads(self.path(request).read_text(encoding="utf-8"))
            return found["text"] if found["request"] == request and isinstance(found["text"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, request: Mapping[str, Any], text: str, about: Mapping[str, Any]) -> None:
        """Keep an answer."""
        write_json(self.path(request), {"request": request, "text": text, **about})


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    partial.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
