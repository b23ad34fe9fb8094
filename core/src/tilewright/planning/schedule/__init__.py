"""Values of the slot `schedule`: launches for groups."""
