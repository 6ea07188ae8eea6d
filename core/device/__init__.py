"""Devices: memory, precision, batches in chunks, recorded steps."""
