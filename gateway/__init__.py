"""Headway: one URL in front of a fleet of model servers."""
