"""What is printed or read afterwards: a board as a PDF, and one HTML page of each measurement."""
