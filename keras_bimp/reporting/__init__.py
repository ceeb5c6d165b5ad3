"""What a report of a pruned model tells: on the terminal, as a page."""

from keras_bimp.reporting.facts import Report
from keras_bimp.reporting.page import page
from keras_bimp.reporting.report import report
from keras_bimp.reporting.summaries import PruningSummaries
from keras_bimp.reporting.table import table

__all__ = ["PruningSummaries", "Report", "page", "report", "table"]
