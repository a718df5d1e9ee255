"""Fetching pages: what is asked, through whom, and what came of it."""
