"""What a recipe will take, before anything runs: arithmetic on settings and shapes, which knows no command line."""
