"""Keyword rules: what they say, how they are compiled, and what they find in texts. Pure."""
