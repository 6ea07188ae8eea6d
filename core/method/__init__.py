"""The method as pure functions of tensors and numbers: imports nothing else of core."""
