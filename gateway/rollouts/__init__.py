"""Canaries of a running gateway: what they see, where they stand, what operators are shown and may say."""
