"""The result type of `report`."""

from keras_bimp._src.reporting.facts import Report

__all__ = [
    "Report",
]
