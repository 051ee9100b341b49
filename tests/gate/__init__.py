"""The gate: prose, code and figures agree, or `pytest` is red."""
