"""argon2id with the least cost the library accepts: the same code path, without two hundred milliseconds a user."""

from django.contrib.auth.hashers import Argon2PasswordHasher


class CheapArgon2(Argon2PasswordHasher):
    time_cost = 1
    memory_cost = 8
    parallelism = 1
