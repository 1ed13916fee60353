"""Rooms that decide: routing, admission, picking."""
