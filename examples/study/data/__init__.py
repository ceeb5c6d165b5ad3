"""The data sets of the studies, read with TensorFlow Datasets."""

from .loading import NAMES
from .loading import load
from .task import Task
