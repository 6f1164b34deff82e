"""The arm as the estimates see it: from commanded angles to pixels, and a start that needs no estimate."""
