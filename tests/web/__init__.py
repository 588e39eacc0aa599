"""Tests of `flask_hubhooks.web`."""
