"""Where commands run and files land."""
