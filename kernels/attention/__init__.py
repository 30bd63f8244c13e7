"""Attention variants from one function each, in FlexAttention's convention."""
