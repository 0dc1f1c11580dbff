"""The FTP engine, sans-IO: grammar, replies, and what may be said when."""
