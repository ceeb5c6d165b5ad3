"""What a report of a pruned model tells: on the terminal, as a page."""

from keras_bimp._src.reporting.facts import Report
from keras_bimp._src.reporting.page import page
from keras_bimp._src.reporting.report import report
from keras_bimp._src.reporting.summaries import PruningSummaries
from keras_bimp._src.reporting.terminal_text import table

__all__ = ["PruningSummaries", "Report", "page", "report", "table"]
