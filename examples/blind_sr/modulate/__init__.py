"""How strongly an image is restored, set by the filters found."""
