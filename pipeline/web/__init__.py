"""What the service shows over HTTP, on threads of its own that wait outside the interpreter."""
