"""`python -m ablation` is `ablate`."""

from ablation.cli.main import main

main(prog_name="ablate")
