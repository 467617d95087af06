"""The study's networks, pairs of them, and what they make of photographs."""
