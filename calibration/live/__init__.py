"""Images as they are taken: cameras, the arm that moves to planned poses, and what a person is told meanwhile."""
