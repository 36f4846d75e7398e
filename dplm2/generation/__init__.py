"""Generation tasks as data (what is given, what is masked), and writing samples."""
