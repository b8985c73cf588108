"""The same network elsewhere: exported, quantized and run by other runtimes."""
