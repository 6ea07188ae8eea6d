"""The protocol of what is ablated, and how a subject is loaded."""
