"""What a variant does with scores and values, in the form that both machines' kernels take."""
