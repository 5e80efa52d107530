"""Tests, in folders that mirror the package; `conftest.py` has the models that all share."""
