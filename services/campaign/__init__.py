"""What is to be done: campaigns, their phases, their names, their progress."""
