"""What a request takes, prefill on chips and decode on wafers, of a model of any size."""
