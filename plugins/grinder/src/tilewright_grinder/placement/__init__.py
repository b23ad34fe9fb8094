"""Where control flow runs: host steps as launches of the grid or of one block, and what that is predicted to cost."""
