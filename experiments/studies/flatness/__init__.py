"""How flat saved runs are."""
