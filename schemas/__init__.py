"""Tables, recipe, manifests, ids and errors: what every other room agrees on."""
