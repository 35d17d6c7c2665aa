"""Measures leftfold against the bare engine and against peers: `python -m bench`.

Development only: nothing here is part of the package, and nothing in the package imports it.
"""
