"""Configuration: schema, loader, and one YAML file per recipe. Imports no torch."""
