"""Writes a push as the request body that a receiver expects."""
