"""Notebooks are compared by the gate, whatever part of the tests is run."""

pytest_plugins = ["tests.gate.plugin"]
