"""How the error of ring attention grows with the ring, by dtype and by how sums are carried.

Values are those of the emulated kernel, held against attention in float64. Queries are normal with
a standard deviation of 3, keys and values of 1, so softmax is peaked; two heads of 128 features;
tokens are dealt out one by one, as AWS's ring kernel deals them. Key tiles are the largest that
fit, 512 keys at most, so they shrink with a rank's share.

Three errors are told apart: of the sums that the last hop leaves, against attention on the operands
as rounded to the dtype, which is what the recipe and the rounded weights cost; of the kernel's
result, which is rounded once more to the output's dtype; and the same against the operands as
drawn, which is mostly the rounding of operands.

What to expect. `bf16-o` grows with the ring whatever the operands, since every hop rounds the
output once more. 8-bit weights are the exception at first: that recipe begins each hop's softmax
anew, so weights are rounded beside their own hop's largest and not far below the sequence's.
float32 with `fp32` sums is flat: from hop to hop the factor of a row whose maximum stays is exactly
1, as maxima are subtracted before they are scaled.

Most of its time, which it tells beforehand, is compilation of 56 rings; name a dtype for a quarter,
or `--quick` for four rings.
"""
