"""The same container under ours, runc and crun: what its process sees, and the table that explains where it differs."""
