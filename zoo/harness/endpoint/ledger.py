"""What was asked of an endpoint and what it cost; and the answers, kept by request."""

from __future__ import annotations

import hashlib
import json
import os
import threading
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
    """What one run used; `cost` in the currency of the prices. `reported` tokens that no honest count could give are counted by length."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    served: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Spending on one endpoint over all runs, in a file beside the cache, so that a new run begins where the last one ended."""

    def __init__(self, source: EndpointSource, folder: Path) -> None:
        self.source, self.file = source, folder / "spent.json"
        self.lock, self.shared = threading.Lock(), FileLock(folder / "spent.lock")
        self.account, self.reserved = Account(), 0.0
        self.reserved_tokens = 0

    def before(self, prompt_tokens: int, most_out: int) -> tuple[float, int]:
        """Set aside the most that a request can cost.

        Raises:
            SpendingLimit: it might pass a limit.
        """
        cost, tokens = self._cost(prompt_tokens, most_out), prompt_tokens + most_out
        with self.lock, self.shared:
            spent, used = self._read()
            limit, most = self.source.spend_limit, self.source.token_limit
            if limit is not None and spent + self.reserved + cost > limit:
                raise SpendingLimit(f"endpoint {self.source.model}: {spent:.4g} of {limit:g} is spent and the next request may cost {cost:.2g}; raise "
                                    f"spend_limit, or remove {self.file.name} from its cache if the bill says otherwise")  # fmt: skip
            if most is not None and used + self.reserved_tokens + tokens > most:
                raise SpendingLimit(f"endpoint {self.source.model}: {used} of {most} tokens are used and the next request may take {tokens}; raise token_limit")
            self.reserved += cost
            self.reserved_tokens += tokens
        return cost, tokens

    def after(self, aside: tuple[float, int], prompt_tokens: int, completion_tokens: int, model: str | None) -> None:
        """Write down what a request took; an attempt without an answer (`model` None) is counted with its prompt."""
        with self.lock, self.shared:
            self.reserved -= aside[0]
            self.reserved_tokens -= aside[1]
            cost, account = self._cost(prompt_tokens, completion_tokens), self.account
            account.prompt_tokens += prompt_tokens
            account.completion_tokens += completion_tokens
            account.cost += cost
            if model is not None:
                account.served[model] = account.served.get(model, 0) + 1
            spent, used = self._read()
            write_json(self.file, {"cost": spent + cost, "tokens": used + prompt_tokens + completion_tokens})

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.source.price_in + tokens_out * self.source.price_out) / MILLION

    def _read(self) -> tuple[float, int]:
        if not self.file.is_file():
            return 0.0, 0
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            return float(found["cost"]), int(found["tokens"])
        except (ValueError, KeyError, TypeError):
            raise ZooError(f'{self.file}: what was spent can\'t be read, so nothing more is; write {{"cost": ..., "tokens": ...}} from the bill') from None

    def figures(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self.account)


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
