"""The HTTP face: one ASGI application over the store, the verbs and discovery."""
