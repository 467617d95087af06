"""Running a model: its isolation, device, precision, threads and progress."""
