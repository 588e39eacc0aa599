"""Tests of `flask_hubhooks.crypto`."""
