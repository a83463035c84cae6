"""The edge of the process: everything between the socket and a handler."""
