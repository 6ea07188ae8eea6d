"""Encoders, heads and denoisers.

Enter at `encoders.build_encoder`, `heads.build_head` and `denoisers.build_denoiser`.
"""
