"""Libraries that print as they load."""

from __future__ import annotations

import os
import sys


def quiet_libraries() -> None:
    """Loading bars and warnings of libraries go; downloads keep their bars in a terminal."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()
