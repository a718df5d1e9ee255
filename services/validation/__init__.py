"""How names are checked: `serve` answers who waits, `work` takes chunks from the queue."""
