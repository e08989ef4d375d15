"""What can be done to objects: create, update, patch, delete (write) and get, list (read)."""
