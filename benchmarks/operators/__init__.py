"""Single operators on a CPU or GPU beside other engines. See README.md."""
