"""The Kubernetes objects we make, as plain documents for server-side apply. Pure."""
