"""What a configuration would change, before it is applied."""
