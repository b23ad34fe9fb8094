"""Views and analyses of the stored forms. Nothing here is stored; everything can be computed again."""
