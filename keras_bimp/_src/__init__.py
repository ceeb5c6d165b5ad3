"""The implementation. The public API is in the modules of `keras_bimp`."""
