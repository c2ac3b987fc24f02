"""A small server of chat completions over HTTP, for tests: it speaks for a model of ours, or misbehaves as it is told."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from zoo.harness.models import LoadedPair
from zoo.harness.writers import Decoder

Reply = Callable[[dict[str, Any]], str]
BODIES = {
    "no json": b"<html>busy</html>", "null": b"null", "a list": b"[1, 2]", "NaN": b"NaN", "nested": b"[" * 100_000, "nothing": b"",
    "no utf-8": b'{"id": "\xff\xfe"}', "an error": b'{"error": {"message": "quota"}}', "an event": b"data: {}\n\n",
}  # fmt: skip


@dataclass
class Chat:
    """What the server answers and what it was asked. `modes` are used up one by one, the last one stays."""

    reply: Reply
    modes: list[str] = field(default_factory=lambda: ["good"])
    asked: list[dict[str, Any]] = field(default_factory=list)
    together: int = 0
    most_together: int = 0
    url: str = ""
    elsewhere: str = ""

    def mode(self) -> str:
        return self.modes.pop(0) if len(self.modes) > 1 else self.modes[0]


def speaks_for(pair: LoadedPair, name: str = "teacher", lock: threading.Lock | None = None) -> Reply:
    """A model of the pair behind the server: it goes on from the user's text and what it has begun to say."""
    model, held = pair.teachers[name], lock or threading.Lock()

    def reply(body: dict[str, Any]) -> str:
        text = "".join(message["content"] for message in body["messages"] if message["role"] != "system")
        with held, torch.no_grad():
            decoder = Decoder(model, pad_id=pair.pad_id, stop_ids=pair.stop_ids, max_batch=1, vocab_size=pair.vocab_size)
            ids = list(pair.tokenizer.encode(text, add_special_tokens=True))
            found = decoder.generate([ids], max_new_tokens=body["max_tokens"], temperature=body["temperature"], seeds=[body["seed"]])
            return pair.decode(found[0].ids)

    return reply


def answer(chat: Chat, body: dict[str, Any], mode: str) -> tuple[int, bytes]:
    """Status and body of one response."""
    if mode.startswith("wait "):
        return 429, b"{}"
    if mode in ("429", "500", "503", "401", "400"):
        return int(mode), json.dumps({"error": {"message": f"mode {mode}"}}).encode()
    if mode in BODIES:
        return 200, BODIES[mode]
    text = chat.reply(body)
    said: dict[str, Any] = {
        "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip
    if mode == "no choices":
        said["choices"] = []
    elif mode == "no text":
        said["choices"][0]["message"]["content"] = None
    elif mode == "other shape":
        said = {"choices": "yes"}
    elif mode == "endless":
        said["choices"][0]["message"]["content"] = "x" * 100_000
    elif mode == "lies about usage":
        said["usage"] = {"prompt_tokens": -5, "completion_tokens": 0, "total_tokens": -5}
    elif mode in ("endless tokens", "half a character", "parts", "bare choices"):
        said["usage"]["completion_tokens"] = 10**30 if mode == "endless tokens" else 5
        said["choices"][0]["message"]["content"] = {"half a character": "\ud800", "parts": [{"type": "text", "text": text}]}.get(mode, text)
        said["choices"] = ["a"] if mode == "bare choices" else said["choices"]
    elif mode in ("usage NaN", "usage none", "usage in words"):
        said["usage"] = {"usage NaN": {"prompt_tokens": math.nan, "completion_tokens": math.nan}, "usage none": None, "usage in words": "lots"}[mode]
    elif mode == "other model":
        said["model"] = "another"
    elif mode == "repeats":
        said["choices"][0]["message"]["content"] = body["messages"][-1]["content"] + text
    elif mode.startswith("says "):
        said["choices"][0]["message"]["content"] = mode[5:]
    return 200, json.dumps(said).encode()


@contextmanager
def serving(chat: Chat) -> Iterator[Chat]:
    """The server on a port of its own."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                chat.asked.append(body)
                chat.together += 1
                chat.most_together = max(chat.most_together, chat.together)
                mode = chat.mode()
            try:
                if mode == "slow":
                    time.sleep(1.5)
                if mode == "hangs up":
                    self.connection.close()
                    return
                if mode == "flood":
                    self.send_response(200)
                    self.end_headers()
                    for _ in range(4096):
                        self.wfile.write(b" " * (1 << 16))
                    return
                status, said = answer(chat, body, mode)
                self.send_response(307 if mode == "elsewhere" else status)
                if mode == "elsewhere":
                    self.send_header("Location", chat.elsewhere)
                if mode == "compressed":
                    self.send_header("Content-Encoding", "gzip")
                    said = gzip.compress(said)
                if mode.startswith("wait "):
                    self.send_header("Retry-After", mode[5:])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                if mode == "drips":
                    for byte in said[:20]:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(0.2)
                    return
                self.wfile.write(said)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with lock:
                    chat.together -= 1

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
