"""Tests of `example_app`."""
