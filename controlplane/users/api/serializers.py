"""What people look like in REST. Writable fields are listed one by one: nobody sets what is not named here."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from controlplane.users.models import Membership, Organisation, Team, TeamMembership, Token, User, UserSession


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = [
            "id",
            "username",
            "full_name",
            "email",
            "is_admin",
            "is_active",
            "version",
            "created_at",
            "updated_at",
            "last_login",
        ]
        read_only_fields = fields


class NewUserSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=100)
    password = serializers.CharField(max_length=4096, required=False, write_only=True, trim_whitespace=False)
    full_name = serializers.CharField(max_length=200, required=False, allow_blank=True)
    email = serializers.EmailField(required=False, allow_blank=True)
    is_admin = serializers.BooleanField(required=False)


class SelfChangeSerializer(serializers.Serializer[Any]):
    full_name = serializers.CharField(max_length=200, required=False, allow_blank=True)
    email = serializers.EmailField(required=False, allow_blank=True)


class UserChangeSerializer(SelfChangeSerializer):
    is_admin = serializers.BooleanField(required=False)
    is_active = serializers.BooleanField(required=False)


class PasswordSerializer(serializers.Serializer[Any]):
    password = serializers.CharField(max_length=4096, trim_whitespace=False)
    current = serializers.CharField(
        max_length=4096, required=False, trim_whitespace=False, help_text="Needed for the own password."
    )


class LoginSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=4096, trim_whitespace=False)
    name = serializers.CharField(max_length=100, required=False, help_text="The token's name; default: cli and a time.")
    expires_at = serializers.DateTimeField(required=False, help_text="Default: in 30 days.")


class TokenSerializer(serializers.ModelSerializer[Token]):
    username = serializers.CharField(source="user.username", read_only=True)

    class Meta:
        model = Token
        fields = [
            "id",
            "name",
            "username",
            "scopes",
            "cidrs",
            "expires_at",
            "last_used_at",
            "last_used_address",
            "revoked_at",
            "created_at",
        ]
        read_only_fields = fields


class NewTokenSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100)
    user = serializers.CharField(max_length=100, required=False, help_text="A user's name; default: the caller.")
    scopes = serializers.ListField(child=serializers.CharField(max_length=100), required=False, allow_null=True, max_length=200)
    cidrs = serializers.ListField(child=serializers.CharField(max_length=50), required=False, max_length=50)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class ShownTokenSerializer(TokenSerializer):
    token = serializers.CharField(read_only=True, help_text="The token itself: shown this once.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "token"]
        read_only_fields = fields


class SessionSerializer(serializers.ModelSerializer[UserSession]):
    username = serializers.CharField(source="user.username", read_only=True)

    class Meta:
        model = UserSession
        fields = ["id", "username", "address", "user_agent", "created_at", "last_used_at", "expires_at"]
        read_only_fields = fields


class OrganisationSerializer(serializers.ModelSerializer[Organisation]):
    class Meta:
        model = Organisation
        fields = ["id", "name", "full_name", "everyone", "version", "created_at", "updated_at"]
        read_only_fields = ["id", "everyone", "version", "created_at", "updated_at"]


class NewOrganisationSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100)
    full_name = serializers.CharField(max_length=200, required=False, allow_blank=True)
    owner = serializers.CharField(max_length=100, required=False, help_text="A user's name; default: nobody.")


class OrganisationChangeSerializer(serializers.Serializer[Any]):
    full_name = serializers.CharField(max_length=200, allow_blank=True)


class MemberSerializer(serializers.ModelSerializer[Membership]):
    username = serializers.CharField(source="user.username")

    class Meta:
        model = Membership
        fields = ["username", "is_owner"]


class TeamMemberSerializer(serializers.ModelSerializer[TeamMembership]):
    username = serializers.CharField(source="user.username")

    class Meta:
        model = TeamMembership
        fields = ["username"]


class TeamSerializer(serializers.ModelSerializer[Team]):
    organisation = serializers.CharField(source="organisation.name", read_only=True)

    class Meta:
        model = Team
        fields = ["id", "organisation", "name", "description", "version", "created_at", "updated_at"]
        read_only_fields = ["id", "organisation", "version", "created_at", "updated_at"]


class NewTeamSerializer(serializers.Serializer[Any]):
    organisation = serializers.CharField(max_length=100)
    name = serializers.CharField(max_length=100)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)


class TeamChangeSerializer(serializers.Serializer[Any]):
    description = serializers.CharField(max_length=500, allow_blank=True)
