"""Real parts, no mocks: servers are started on loopback, and every test's name is a true sentence."""
