"""Kills what a delivery needs while deliveries flow, then counts: `python -m tests.chaos`."""
