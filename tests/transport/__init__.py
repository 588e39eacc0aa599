"""Tests of `flask_hubhooks.transport`."""
