"""How long must SGD train? SGD tuned at 1, 3 and 10 times the epochs."""
