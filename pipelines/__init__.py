"""The jobs of beamclip: one runnable module a command, each with `main(argv=None)`."""
