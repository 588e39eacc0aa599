"""Tests of `flask_hubhooks.formats`."""
