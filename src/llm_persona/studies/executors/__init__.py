"""What runs a study's pieces besides this process."""
