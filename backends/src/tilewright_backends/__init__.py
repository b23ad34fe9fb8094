"""Code generation for Tilewright. Every use of TVM in the project is inside this package."""
