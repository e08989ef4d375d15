"""The built-in controllers: they react to committed changes as kube-controller-manager and kube-apiserver do."""
