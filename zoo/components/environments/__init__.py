"""Environments: who answers the writer of a stream, and when a dialogue is over."""

from zoo.components.environments.base import Environment, Ground
from zoo.components.environments.kinds import ScriptedTurns, SimulatedUser, SingleTurn, Tool

__all__ = ["Environment", "Ground", "ScriptedTurns", "SimulatedUser", "SingleTurn", "Tool"]
