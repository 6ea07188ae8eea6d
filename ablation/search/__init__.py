"""What is run next, from what was found so far: seeds until claims are decided."""
