"""From a file to what is trained: `rows` reads and validates, `encode` renders, masks and cuts."""
