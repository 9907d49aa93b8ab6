"""The guards in front of the routes, as plain ASGI: none of them relies on the framework's reading of a request."""
