"""What is particular to each built-in kind: values the server fills in, rules beyond the schema, what cannot change."""

from dotmac_local.kinds.rules import KindRules, rules_for

__all__ = ["KindRules", "rules_for"]
