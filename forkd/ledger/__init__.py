"""The file behind the quota ledger: layout, mapping, kernel locks.  quota.py has the rules."""
