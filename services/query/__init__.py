"""What is known: pages for people, streams for machines, figures from counters. Writes nothing."""
