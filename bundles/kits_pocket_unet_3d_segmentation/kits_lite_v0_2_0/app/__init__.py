"""The door: what segments a scan, from Python and from the command line."""
