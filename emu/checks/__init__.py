"""What no program may do: take more memory than there is, leave results unread, round in secret."""
