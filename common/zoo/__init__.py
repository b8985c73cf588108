"""Writes the bundle folders and checks them; never ships."""
