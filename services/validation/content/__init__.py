"""What is made of a page: its parts, what it says, whom it belongs to."""
