"""What degraded one image."""
