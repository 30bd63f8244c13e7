"""What researchers read and write: kernels in device instructions."""
