"""Policies that are composed of parts."""
