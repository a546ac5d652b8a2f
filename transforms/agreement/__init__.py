"""How far people agree, how far each can be trusted, and how good the published labels are."""
