"""Estimate what a run costs before it is started."""
