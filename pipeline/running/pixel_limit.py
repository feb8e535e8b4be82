"""How large a picture may be: a file of 35 bytes can say that it unfolds to four gigapixels."""

MAX_PIXELS = 178_956_970  # Pillow's own limit, at which a picture takes 0.7 GB as it is decoded
