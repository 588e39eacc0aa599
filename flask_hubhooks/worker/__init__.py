"""Claims due deliveries, sends them and records the results."""
