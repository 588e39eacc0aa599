"""What the tests share: a host app, receivers, processes, a model of the rules."""
