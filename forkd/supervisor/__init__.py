"""What the master is made of: policy, children, requests, listeners, start and reload."""
