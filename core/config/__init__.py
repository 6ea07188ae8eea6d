"""The settings of a trial, their defaults, and how text becomes them. No torch."""
