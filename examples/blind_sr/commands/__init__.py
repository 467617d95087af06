"""The study's commands, one a file; `blind_sr.cli` puts them together."""
