"""One image, restored at a chosen strength."""
