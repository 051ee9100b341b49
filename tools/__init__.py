"""What makes the book and reports on it; nothing here needs pytest."""
