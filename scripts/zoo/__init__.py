"""Makes the bundle folders and checks them: skeleton, rendering, verification, release and MONAI Label."""
