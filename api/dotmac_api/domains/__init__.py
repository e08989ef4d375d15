"""The settings that administrators change at run time, by domain (served as /settings)."""
