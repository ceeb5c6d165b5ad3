"""The implementation. What is public is in the modules of `keras_bimp`."""
