"""forkd: a pre-fork file-transfer server with exact quotas and atomic, resumable uploads."""

__version__ = "0.1.0"
