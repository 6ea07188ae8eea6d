"""What a trial computes: its chain of epochs and their keys, before anything runs. No torch.

Enter at `trajectory.chain`. Its first key, `fingerprint.root_key`, holds source, data, checkpoint
and libraries. `ignored.ignored` finds settings that change no key.
"""
