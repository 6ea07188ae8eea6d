"""Checks of a machine and a project, and their repair."""
