"""The data sets of the studies, read by TensorFlow Datasets."""

from .loading import NAMES
from .loading import load
from .task import Task
