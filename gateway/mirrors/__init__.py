"""Copies of requests that are sent elsewhere, compared and thrown away."""
