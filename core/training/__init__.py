"""Epochs of pre-training, warm-up, joint and staged training, and their evaluation.

Enter at `epochs.joint_epoch` and `epochs.warmup_epoch`, which train a `learner.Learner`: modules,
optimisers, statistics, pool. `pretraining.Pretraining` comes before them, `staged.diffusion_epoch`
and `staged.head_epoch` are the staged baseline, and `evaluation.test_report` is what an epoch
reports.
"""
