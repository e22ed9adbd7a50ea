"""The service over HTTP, in the shape of the Videos API that clients speak. Needs the extra `serve`."""
