"""The two roots of the cluster: one for nodes, one for the API. A certificate of one is nothing on the other's port."""

from __future__ import annotations

from django.db import models

from controlplane.api.ids import LENGTH, new_id


class Authority(models.Model):
    class Purpose(models.TextChoices):
        NODE = "node"
        API = "api"

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    purpose = models.CharField(max_length=8, choices=Purpose.choices)
    certificate = models.TextField()  # PEM
    key = models.BinaryField()  # PKCS#8 DER under AES-256-GCM with the KEK: 12 bytes nonce, then ciphertext; AAD = purpose and id
    fingerprint = models.CharField(max_length=64, unique=True)  # sha256 of the DER, hex
    active = models.BooleanField(default=True)  # the one that signs; older ones stay to be trusted
    not_after = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["purpose"], condition=models.Q(active=True), name="pki_one_active_root"),
        ]

    def __str__(self) -> str:
        return f"{self.purpose} {self.fingerprint[:12]}"
