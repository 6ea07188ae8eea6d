"""Images as one uint8 tensor: sources, long-tailed profiles, batched augmentation.

Enter at `sources.load`, which returns a `sources.Dataset`. `listing.listed` lists the images of a
folder or an archive, `layout.class_names` checks its folders, and `counting.class_counts` counts
without decoding. `batches.batches` orders the samples of an epoch, `augment.crop_and_flip` and
`strong.strong` augment a batch, and `location.locate` finds files.
"""
