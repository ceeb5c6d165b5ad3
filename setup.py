"""Gives the package a description for its index; all else is in setup.cfg."""

import pathlib
import re

import setuptools


def description() -> str:
    """The README without what an index cannot show: the files beside it."""
    text = pathlib.Path(__file__).with_name("README.md").read_text("utf-8")
    local = r"\((?!https?://)[^)\s]+\)"
    # A picture and the line in italics that is its caption.
    text = re.sub(rf"!\[[^\]]*\]{local}\n\n(\*.+\*\n\n)?", "", text)
    text = re.sub(rf"\s\(\[\w+\]{local}\)", "", text)  # ([more](...))
    return re.sub(rf"\[([^\]]+)\]{local}", r"\1", text)


setuptools.setup(long_description=description())
