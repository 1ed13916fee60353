"""Sampled requests and answers, without secrets and personal data, in files."""
