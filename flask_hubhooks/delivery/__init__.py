"""Sending: from a due row to a recorded attempt."""
