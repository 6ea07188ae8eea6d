"""Images as one uint8 tensor: sources, long-tailed profiles, batched augmentation."""
