"""The wire to an endpoint: answers of a bounded size, from the address that was asked and no other. Imported only where the client is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

try:
    import httpx2 as httpx
except ImportError:  # before its version 3 the client openai spoke through httpx
    import httpx  # type: ignore[import-not-found, no-redef, unused-ignore]


class TooLong(httpx.ReadError):
    """An answer goes on beyond what an answer can be."""


Unreached = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)  # nobody has read the request


class Bounded(httpx.AsyncByteStream):
    """A stream that ends with an error at its bound."""

    def __init__(self, stream: httpx.AsyncByteStream, most: int) -> None:
        self.stream, self.most = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self.stream:
            size += len(piece)
            if size > self.most:
                raise TooLong(f"an answer of more than {self.most} bytes")
            yield piece

    async def aclose(self) -> None:
        await self.stream.aclose()


class BoundedTransport(httpx.AsyncHTTPTransport):
    """Plain bytes, at most so many: what comes compressed, unasked, could be of any size once unpacked."""

    def __init__(self, most: int, **fields: Any) -> None:
        super().__init__(**fields)
        self.most = most

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            raise TooLong("a compressed answer, which nobody asked for")
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Bounded(response.stream, self.most)
        return response


def bounded_client(timeout: float, most: int) -> httpx.AsyncClient:
    """A client that reads at most so many bytes of an answer and follows no redirection: a prompt goes where its owner sent it."""
    return httpx.AsyncClient(timeout=timeout, transport=BoundedTransport(most), follow_redirects=False, headers={"Accept-Encoding": "identity"})
