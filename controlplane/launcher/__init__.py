"""`wharf up`: one small parent for Valkey, web, worker and the local agent. Standard library only, no Django."""
