"""HTTP: authentication, request guards and the API's documentation page."""
