"""What a step costs on up to thousands of accelerators, predicted by counting."""
