"""Photographs: what is done to them, and how far two of them are apart."""
