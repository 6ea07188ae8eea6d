"""The method as pure functions of tensors and numbers: imports nothing else of core.

Enter at `losses.semantic_loss`: the diffusion loss (`diffusion.add_noise`, `diffusion.target`) with
the terms of `geometry.prototype_loss` and `geometry.radius_loss`. `routing.combine` decides which
loss reaches the encoder, `diffusion.generate` draws latents, `wcdas.wcdas_logits` is a head's
formula, and `metrics.evaluate` and `diagnostics.drift` measure.
"""
