"""Clients of other registries and endpoints, and the guard of every request that leaves on a user's behalf."""
