"""Signatures, encrypted secrets and callback tokens."""
