"""Projections: the keyed left fold, with tables whose rows are the states."""
