"""Headway: one URL in front of a fleet of model servers."""

VERSION = "0.1.0"
