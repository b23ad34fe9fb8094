"""Recipes: what each emitter can do, as records that proposers read. Nothing here imports TVM."""
