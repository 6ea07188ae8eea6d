"""Epochs of pre-training, warm-up, joint and staged training, and their evaluation."""
