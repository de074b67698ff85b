"""Engines besides transformers that run a subject."""
