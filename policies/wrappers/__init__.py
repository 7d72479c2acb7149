"""Policies around any other policy."""
