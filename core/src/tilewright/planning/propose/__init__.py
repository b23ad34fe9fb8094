"""Values of the slot `propose`: tile choices for a group."""
