"""The bench: a world to try pairs in, and the figures measured there."""
