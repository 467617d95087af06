"""Commands of `paramattr` that are no study: each parses, calls and prints."""
