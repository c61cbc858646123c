"""What models learn from: rows that ask, and the answers as known then."""

from trilane.training.build import build, values_at
from trilane.training.training_set import Statistics, TrainingSet

__all__ = ["Statistics", "TrainingSet", "build", "values_at"]
