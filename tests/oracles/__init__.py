"""Slow, plain, float64 truths. Written apart from the library, which never imports them."""
