"""Network namespaces, real peers and captures for the tests and the demonstration."""
