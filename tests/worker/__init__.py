"""Tests of `flask_hubhooks.worker`."""
