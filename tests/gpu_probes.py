"""What a process asks of a GPU under a service, in place of asking: light to import, since each process of a test does."""

from __future__ import annotations

import os


def there() -> None:
    """It answers."""


def numbered_from_zero() -> None:
    """It answers if its number is as a service's processes count."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1" and "/mps-4-" in os.environ["CUDA_MPS_PIPE_DIRECTORY"]


def missing() -> None:
    """It does not answer."""
    raise RuntimeError("CUDA error: MPS client failed to connect")
