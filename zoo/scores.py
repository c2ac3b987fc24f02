"""The old place of `zoo.score_frame`: a module of this name takes the place of the function `zoo.scores` once it is imported."""

from zoo.score_frame import scores

__all__ = ["scores"]
