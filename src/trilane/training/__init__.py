"""What models learn from: rows that ask, and the answers as known then."""

from trilane.training.build import build, skews_of, values_at
from trilane.training.skew import Skew
from trilane.training.training_set import Statistics, TrainingSet

__all__ = ["Skew", "Statistics", "TrainingSet", "build", "skews_of", "values_at"]
