"""Encoders, heads and denoisers."""
