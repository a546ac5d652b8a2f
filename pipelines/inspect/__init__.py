"""What a workspace can be asked."""
