"""What is read from a disk or written to it."""
