"""A local web page: ask once, read the base and the steered answer side by side."""
