"""What `report` returns."""

from keras_bimp._src.reporting.facts import Report

__all__ = [
    "Report",
]
