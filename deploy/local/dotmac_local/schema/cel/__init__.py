"""Rules in the Common Expression Language (`x-kubernetes-validations`), on Google's CEL runtime.

`library` holds the functions that Kubernetes adds, `values` turns JSON into what a rule sees, `rules` compiles and runs
rules, and `types` checks a definition: a rule that names an unknown field or mixes types is refused with the CRD.
"""
