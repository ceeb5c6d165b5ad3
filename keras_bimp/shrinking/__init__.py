"""Shrinking: the channels that pruning left without use, taken out."""

from keras_bimp.shrinking.shrink import shrink

__all__ = ["shrink"]
