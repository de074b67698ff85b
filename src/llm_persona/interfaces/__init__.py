"""What people touch: the command line. It parses, calls the Python API, prints."""
