"""The audit trail: append-only files, each record bound to all before it by SHA-256. It imports the domain alone."""
