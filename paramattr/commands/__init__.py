"""Commands of `paramattr` that are no study; `cli.py` parses for them and prints."""
