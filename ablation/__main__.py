"""`python -m ablation` is `ablate`."""

from ablation.cli import main

main(prog_name="ablate")
