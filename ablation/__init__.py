"""The harness: grid -> design -> plan -> run -> track -> judge -> report. Never imports torch."""

from pathlib import Path

PACKAGE = Path(__file__).parent
# the folder from which Python imports this package and `core`
INSTALLED_IN = PACKAGE.parent
