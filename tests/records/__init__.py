"""Tests of `flask_hubhooks.records`."""
