"""The ASGI server: uvicorn with one protocol class, and the listeners of a web process."""
