"""Models behind OpenAI-compatible endpoints: texts, verdicts and scores, kept on disk, paid for within a limit."""

from zoo.harness.endpoint.client import Endpoint, Question
from zoo.harness.endpoint.source import EndpointSource

__all__ = ["Endpoint", "EndpointSource", "Question"]
