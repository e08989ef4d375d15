"""observe -> plan -> apply one step -> observe again."""
