"""Does flatness predict the test error? A full factorial of settings, every measure on each."""
