"""What a worker is made of: sessions, transports, transfers, threads."""
