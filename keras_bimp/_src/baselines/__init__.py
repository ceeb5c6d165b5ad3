"""Pruning-stable methods, which the paper compares with: one recipe each."""
