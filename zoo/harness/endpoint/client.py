"""Asking an endpoint: many requests at once, each kept, retried where that can help, and never beyond the limit."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zoo.errors import ZooError
from zoo.harness.endpoint.ledger import Cache, Ledger
from zoo.harness.endpoint.source import EndpointSource

T = TypeVar("T")
LONGEST = 64  # characters of one token at most; an answer beyond that is no answer of max_tokens tokens
SHORTEST = 16  # characters of a token that an honest count could have on average
TEMPLATE = 64  # tokens that a chat format may put around one message
ESCAPED, AROUND = 12, 1 << 20  # bytes that a character may take in JSON, and bytes of all that stands around a text
NAME = 120  # characters of a served model's name that are kept
WAIT, LONGEST_WAIT = 0.5, 20.0
AGAIN = (408, 409, 425, 429)


class Malformed(Exception):
    """An answer without the text that was asked for."""


@dataclass(frozen=True)
class Question:
    """One request: what the user says, what the assistant has begun to say, how it is sampled. `seed` tells samples apart, in the cache too."""

    text: str
    begun: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0


def cache_folder(source: EndpointSource) -> Path:
    """Where an endpoint's answers are kept: the folder it names, else one of its own under the user's cache."""
    if source.cache is not None:
        return Path(source.cache)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "opd-zoo" / "endpoints" / hashlib.sha256(f"{source.url} {source.model}".encode()).hexdigest()[:16]


class Endpoint:
    """A model behind an OpenAI-compatible endpoint."""

    def __init__(self, source: EndpointSource) -> None:
        self.source = source
        folder = cache_folder(source)
        folder.mkdir(parents=True, exist_ok=True)
        self.cache, self.ledger = Cache(folder), Ledger(source, folder)

    def ask(self, questions: Sequence[Question], read: Callable[[str], T] | None = None) -> list[T | str]:
        """The answers, in order. `read` turns an answer into what it says; where it raises ValueError the question is asked again.

        Raises:
            ZooError: no answer after all retries, a refusal that another try would not change, or the spending limit.
        """
        asked = self._all(questions, read)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(asked)
        with ThreadPoolExecutor(1) as apart:  # in a notebook this thread has a loop of its own
            return apart.submit(asyncio.run, asked).result()

    async def _all(self, questions: Sequence[Question], read: Callable[[str], T] | None) -> list[T | str]:
        try:
            import openai

            from zoo.harness.endpoint.wire import bounded_client
        except ImportError:
            raise ZooError("an endpoint needs the client openai: pip install 'opd-zoo[endpoint]', or use a pair whose models are local") from None
        key = os.environ.get(self.source.key_env, "none")  # servers of one's own want no key
        gate = asyncio.Semaphore(self.source.concurrency)
        sender = bounded_client(self.source.timeout, ESCAPED * LONGEST * max([q.max_tokens for q in questions] + [1]) + AROUND)
        async with openai.AsyncOpenAI(base_url=self.source.url, api_key=key, max_retries=0, timeout=self.source.timeout, http_client=sender) as client:

            async def one(question: Question) -> T | str:
                async with gate:
                    return await self._one(client, question, read)

            tasks = [asyncio.ensure_future(one(question)) for question in questions]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:  # a failure ends the others, whose requests would be paid for in vain
                    task.cancel()

    def request(self, question: Question) -> dict[str, Any]:
        """The request's body, by which, and by the endpoint's address, its answer is kept."""
        messages = [{"role": "user", "content": question.text}]
        if self.source.system:
            messages.insert(0, {"role": "system", "content": self.source.system})
        if question.begun:
            messages.append({"role": "assistant", "content": question.begun})
        return {"model": self.source.model, "messages": messages, "temperature": question.temperature, "top_p": question.top_p,
                "max_tokens": question.max_tokens, "seed": question.seed % 2**31}  # fmt: skip

    async def _one(self, client: Any, question: Question, read: Callable[[str], T] | None) -> T | str:
        last, account = "", self.ledger.account
        for attempt in range(self.source.retries + 1):
            body = self.request(question)
            if attempt and read is not None:
                body["seed"] = (body["seed"] + attempt) % 2**31  # the same question with the same seed would be misread again
            text = self.cache.get({"url": self.source.url, **body})
            try:
                if text is None:
                    account.requests += 1
                    text = await self._sent(client, body)
                else:
                    account.cached += 1
                return text if read is None else read(text)
            except (Malformed, ValueError) as error:
                last = f"{error}"
                if read is None and isinstance(error, ValueError):
                    raise
            except Again as error:
                last = str(error)
                if attempt < self.source.retries:
                    await asyncio.sleep(min(max(WAIT * 2**attempt, error.wait), LONGEST_WAIT))
            account.retries += attempt < self.source.retries
        account.refused += 1
        raise NoAnswer(f"endpoint {self.source.model} at {self.source.url} gave no usable answer in {self.source.retries + 1} tries; the last: {last}")

    async def _sent(self, client: Any, body: dict[str, Any]) -> str:
        """One try, paid for whatever comes of it."""
        import openai

        from zoo.harness.endpoint.wire import Unreached

        said = [message["content"] for message in body["messages"]]
        told = sum(map(len, said))
        most = sum(len(text.encode("utf-8", "replace")) for text in said) + TEMPLATE * len(said), body["max_tokens"]
        aside = self.ledger.before(*most)
        used, model = most, None  # until it is known that it took less
        try:
            answer = await asyncio.wait_for(client.chat.completions.create(**body), self.source.timeout)
            text, known = text_of(answer, body["max_tokens"]), {"url": self.source.url, **body}
            model = str(getattr(answer, "model", None) or "unnamed")[:NAME]
            used = counted(answer, told, text, most)
            self.cache.put(known, text, {"model": model, "tokens": list(used)})
            return text
        except (TimeoutError, openai.APITimeoutError):
            raise Again(f"no answer within {self.source.timeout:g} s") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, Unreached):
                used = 0, 0
            raise Again(f"no connection ({error.__cause__ or error})") from None
        except openai.APIStatusError as error:
            used = -(-told // SHORTEST), 0
            if error.status_code in AGAIN or error.status_code >= 500:
                raise Again(f"status {error.status_code}", _wait(error)) from None
            raise ZooError(f"endpoint {self.source.model} at {self.source.url} refuses the request (status {error.status_code}): {str(error)[:200]}; "
                           f"check url, model and the key in ${self.source.key_env}") from None  # fmt: skip
        except (openai.APIError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:  # what a client makes of other shapes
            raise Malformed(f"not in the form of chat completions ({type(error).__name__})") from None
        finally:
            self.ledger.after(aside, *used, model)


class Again(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class NoAnswer(ZooError):
    """All tries of one question failed."""


def text_of(answer: Any, most_tokens: int) -> str:
    """The text of a chat completion.

    Raises:
        Malformed: there is none, or more than was allowed.
    """
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    text = getattr(message, "content", None)
    if not isinstance(text, str):
        raise Malformed("an answer without a message")
    if len(text) > LONGEST * most_tokens:
        raise Malformed(f"{len(text)} characters for at most {most_tokens} tokens")
    return text


def counted(answer: Any, told: int, said: str, most: tuple[int, int]) -> tuple[int, int]:
    """Tokens of prompt and answer as the endpoint reports them, where such a count is possible; else the most that it can have been."""
    usage, found = getattr(answer, "usage", None), []
    upper = most[0], max(1, min(most[1], len(said.encode("utf-8", "replace"))))
    for name, length, possible, otherwise in (("prompt_tokens", told, most[0], upper[0]), ("completion_tokens", len(said), most[1], upper[1])):
        value = getattr(usage, name, None)
        whole = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value == int(value)
        found.append(int(value) if whole and -(-length // SHORTEST) <= value <= possible else otherwise)  # type: ignore[arg-type, operator]
    return found[0], found[1]


def _wait(error: Any) -> float:
    try:
        return min(float(error.response.headers.get("retry-after", 0.0)), LONGEST_WAIT)
    except (TypeError, ValueError):
        return 0.0
