"""The configuration: one YAML file to frozen dataclasses, every error with its line, column and a suggestion."""
