"""The logs of a run that has just ended, still in memory."""

from __future__ import annotations

import pandas as pd

from zoo.failures import RunLogs
from zoo.harness.train import Trainer


def logs_of(trainer: Trainer, name: str) -> RunLogs:
    """What the detectors read."""
    return RunLogs(steps=pd.DataFrame(trainer.rows), info={"comparison": "provocations", "method": name, "pair": trainer.pair.spec.id})
