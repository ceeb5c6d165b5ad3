"""The pruning-stable methods that the paper compares with, as recipes."""
