"""The live table and the plain lines that a terminal shows while a study runs."""
