"""What stands before the routes, as plain ASGI: none of it asks the framework what a request is."""
