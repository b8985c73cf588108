"""What the papers promise of smaller networks, made true: counts, zeros and narrower networks."""
