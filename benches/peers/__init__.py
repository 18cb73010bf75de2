"""What `benches/compare` is made of: the switches under test, the guests, the rows, and the report."""
