"""What gpubp shows of its own work; it may import everything, and nothing imports it but the top of the package."""
