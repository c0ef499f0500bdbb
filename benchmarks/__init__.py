"""How fast the package is, told in ratios; README.md says how to read them."""
