"""How a pair declares an endpoint."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from zoo.components.base import Strict


class EndpointSource(Strict):
    """An OpenAI-compatible endpoint: where it is, which model is asked, what it costs (per million tokens, in any one currency) and how much may
    be spent, over all runs that share its cache. The key is read from the environment variable `key_env`, never from a file of ours."""

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    system: str | None = None
    price_in: float = Field(0.0, ge=0, allow_inf_nan=False)
    price_out: float = Field(0.0, ge=0, allow_inf_nan=False)
    spend_limit: float | None = Field(None, gt=0, allow_inf_nan=False)
    token_limit: int | None = Field(None, gt=0)
    concurrency: int = Field(8, ge=1, le=256)
    retries: int = Field(4, ge=0, le=20)
    timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    cache: str | None = None

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if (self.price_in or self.price_out) and self.spend_limit is None:
            raise ValueError("an endpoint with a price needs spend_limit, the most that may ever be spent on it")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url should begin with http:// or https://, not '{self.url[:20]}'")
        return self
