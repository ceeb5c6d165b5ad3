"""Gradual magnitude pruning by tensorflow-model-optimization, and by ours.

It needs Keras 2, and a process holds one Keras: each side trains in its own,
started by `beside_tfmot.py`.
"""
