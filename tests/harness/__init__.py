"""What tests of the whole need: brokers, clients, and a wire that can be cut and read."""
