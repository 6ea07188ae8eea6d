"""From the chains of trials to unique epochs, a schedule and a forecast."""
