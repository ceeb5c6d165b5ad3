"""Gradual magnitude pruning, in tensorflow-model-optimization and keras_bimp.

The former needs Keras 2, and a process has only one Keras. So each side trains
in a separate process, started by `beside_tfmot.py`.
"""
