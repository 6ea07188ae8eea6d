"""Pure functions of results: contrasts, effects, claims, power, comparisons."""
