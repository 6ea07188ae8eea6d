"""The settings of a trial, their defaults, and how text becomes them. No torch.

Enter at `schema.Config`: every setting with its meaning, default and limits. `parsing.parse` makes
one of flat settings, and names all that is wrong with them.
"""
