"""Data sets that the shipped YAML files make: drawn here, or fetched and converted."""
