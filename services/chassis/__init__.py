"""What a process needs before it knows which service it is."""
