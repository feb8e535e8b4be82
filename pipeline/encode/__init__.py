"""Stage one: image file -> datasets -> pixels -> frozen encoder -> latents -> the cache."""
