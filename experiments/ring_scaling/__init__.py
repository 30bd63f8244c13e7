"""What context-parallel attention of one layer costs: placements, masks, ranks, overlap, schemes.

Read by the clock alone, without data: bfloat16, 8 query heads over 1 KV head of 128 features on
each core (64 over 8 on a chip of eight cores), all cores of every chip running. Window and sinks
are as long as a rank's tokens, chunks four times, blocks half; documents are 16 of random lengths.

Exposed communication is what a program takes longer than the same program on the same machine
whose links take no time: infinite rate, hops of 0 s. What a transfer takes of HBM stays. A ring in
which nothing ever waited for a link is not read twice: no start would change.
"""
