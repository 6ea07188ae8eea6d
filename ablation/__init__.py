"""The harness: grid -> design -> plan -> run -> track -> judge -> report. Never imports torch.

The command line is `ablate`; from Python, `api.Study` or `api.run_study`, `api.load_results` and
`api.effects` do the same. The packages are described in docs/architecture.md.
"""

from pathlib import Path

from ablation.api import Study, effects, load_results, run_study

__all__ = ["Study", "effects", "load_results", "run_study"]

PACKAGE = Path(__file__).parent
# the folder from which Python imports this package and `core`
INSTALLED_IN = PACKAGE.parent
