"""Schedules: a number that changes with the run's progress, from 0 at its start to 1 at the end of its budget, or that follows what
the steps measure."""

from zoo.components.schedules.adaptive import MEASURES, Adaptive, Balance, HitRate, Informed, LossTrend, Metric, Momentum
from zoo.components.schedules.fixed import Complement, Cosine, Exponential, Linear, Ramp, Schedule, Stepwise
from zoo.components.schedules.learned import Controller

__all__ = [
    "MEASURES",
    "Adaptive",
    "Balance",
    "Complement",
    "Controller",
    "Cosine",
    "Exponential",
    "HitRate",
    "Informed",
    "Linear",
    "LossTrend",
    "Metric",
    "Momentum",
    "Ramp",
    "Schedule",
    "Stepwise",
]
