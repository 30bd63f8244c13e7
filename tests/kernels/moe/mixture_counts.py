"""FLOPs and bytes of a mixture on a mesh, dropless, as sums over its cores and experts."""

import math

import numpy as np

INDEX_BYTES = 4  # a token's number, a count, a float32
LIST_ROWS = 128  # rows of a list that are gathered at once


def served(on, counts):
    """Rows of every expert on every core that has it: `((chip, core), local, rows)`.

    Experts stand in runs of a core's index, dealt round over the chips of a group; a group serves
    the tokens of its own chips.
    """
    of_core = on.mixture.routing.experts // on.cores
    group = math.gcd(of_core, on.chips)
    for chip in range(on.chips):
        first = chip // group * group
        for core in range(on.cores):
            for local in range(of_core // group):
                number = core * of_core + local * group + chip % group
                rows = int(counts[first : first + group, number].sum())
                yield (chip, core), local, rows


def listed(on, counts):
    """Rows of every list of every core: what its chip's tokens chose of a local number's experts.

    One list has the experts of all chips of a group: `((chip, core), local, rows)`.
    """
    of_core = on.mixture.routing.experts // on.cores
    group = math.gcd(of_core, on.chips)
    by_list = counts.reshape(on.chips, on.cores, of_core // group, group).sum(-1)
    for (chip, core, local), rows in np.ndenumerate(by_list):
        yield (chip, core), local, int(rows)


def up_to(multiple, rows):
    """The next multiple."""
    return -(-rows // multiple) * multiple


def matrix_bytes(rows, columns, mx, element):
    """Of a packed matrix: numbers, or MX elements and a scale for every 32 rows of a column."""
    if mx is None:
        return rows * columns * element
    return rows * columns * mx.weights.element_bits // 8 + rows // 32 * columns


def matmul_flops(on, counts):
    """Router and counting on every core, tiles of experts, the shared MLP."""
    form = on.form(counts)
    tokens, padded = on.tokens, form.hidden_padded
    experts = on.mixture.routing.experts
    columns = experts + on.mixture.shared_is_scaled
    routers = 2 * tokens * padded * columns + 2 * 2 * tokens * form.rows * experts
    shared = 0
    if form.shared:
        shared = 2 * 3 * tokens * padded * math.prod(form.shared_tiles)
    rows = sum(up_to(form.tile_rows, rows) for _, _, rows in served(on, counts))
    expert = 2 * 3 * padded * math.prod(form.ffn_tiles)
    return on.chips * on.cores * (routers + shared) + rows * expert


def hbm_bytes(on, counts, chip):
    """Of all cores, `(read, written)`.

    Args:
      on: a `MoeMesh`, without a capacity and without padding.
      counts: int `[chips, experts]`.
      chip: the machine, which says from how many bytes on a collective goes in several steps.
    """
    assert on.capacity is None and on.real is None
    each = of_every_core(on, on.form(counts), chip)
    total = np.array(each) * on.chips * on.cores
    total += of_experts(on, counts) + of_lists(on, counts)
    return tuple(total.tolist())


def of_every_core(on, form, chip):
    """What does not depend on counts: routing, lists, the shared MLP, the sum over cores."""
    what, routing = on.mixture, on.mixture.routing
    element = np.dtype(on.dtype).itemsize
    experts, chosen = routing.experts, routing.chosen
    tokens, padded, cores = on.tokens, form.hidden_padded, on.cores
    in_every_row = form.rows * experts * INDEX_BYTES
    picks = tokens * chosen
    # The router: its matrix, its biases, hidden states.
    read = padded * (experts + what.shared_is_scaled) * element
    read += (what.router_bias + routing.selection_bias) * in_every_row
    read += tokens * padded * element
    # Where experts begin: in all cores' lists, in its own, and which follow another on a chip.
    read += (1 + (cores > 1) + form.crosses) * in_every_row
    # Counts; empty lists and what is put there: tokens, and factors of experts' inputs.
    lists = 1 + routing.on_input
    written = experts * INDEX_BYTES
    written += lists * (form.local * form.sent_rows + picks) * INDEX_BYTES
    if form.crosses:
        announced = (on.chips - 1) * experts * INDEX_BYTES
        read, written = read + announced, written + announced
    # In the end a part of the features of everything chosen is summed up.
    own = -(-padded // cores)
    read += picks * own * element
    written += tokens * own * element
    chunk = tokens * own * element
    if cores > 1:
        read += (cores - 1) * chunk
        written += (cores - 1) * chunk
    if not what.shared:
        return read, written
    at_once = max(n for n in range(1, form.tiles_at_once + 1) if form.tiles % n == 0)
    features = math.prod(form.shared_tiles)
    # Gate, up and down: the last contracts what the others give.
    matrices = 2 * matrix_bytes(padded, features, form.others_mx, element)
    matrices += matrix_bytes(features, padded, form.others_mx, element)
    read += tokens * padded * element + form.tiles // at_once * matrices
    written += tokens * padded * element
    if cores > 1:
        # Summed over cores: each reads its part of all, in several steps the half-made sums too.
        in_one_step = chunk * cores < chip.mesh_limit_bytes
        read += (cores if in_one_step else 2 * (cores - 1)) * chunk
        written += (1 if in_one_step else cores - 1) * chunk
    # The sum is read once more, where experts' outputs are added to it.
    return read + chunk, written


def of_experts(on, counts):
    """Rows of experts in whole tiles, and their weights once for every block of tiles."""
    form, what = on.form(counts), on.mixture
    element = np.dtype(on.dtype).itemsize
    padded, features = form.hidden_padded, math.prod(form.ffn_tiles)
    weights = 2 * matrix_bytes(padded, features, form.mx, element)
    weights += matrix_bytes(features, padded, form.mx, element)
    if what.biases:
        # Of both up projections one for each feature; of the down projection in every row.
        weights += (2 * features + form.tile_rows * padded) * INDEX_BYTES
    # What did not cross a link is gathered from the chip's own tokens.
    by_list = 0 if form.crosses else (1 + what.routing.on_input) * INDEX_BYTES
    read = written = 0
    for _, _, rows in served(on, counts):
        rows = up_to(form.tile_rows, rows)
        blocks = -(-rows // (form.tile_rows * form.tiles_at_once))
        read += rows * (padded * element + by_list) + blocks * weights
        written += rows * padded * element
    return np.array((read, written))


def of_lists(on, counts):
    """Rows that are gathered and exchanged between chips and back, and columns between cores."""
    form = on.form(counts)
    element = np.dtype(on.dtype).itemsize
    there = form.hidden_padded * element
    part = -(-form.hidden_padded // on.cores)
    back = part * on.cores * element
    read = written = 0
    for _, _, rows in listed(on, counts):
        of_columns = rows * (on.cores - 1) * part * element
        read, written = read + of_columns, written + of_columns
        if not form.crosses:
            continue
        gathered = up_to(LIST_ROWS, rows)
        of_list = (1 + on.mixture.routing.on_input) * INDEX_BYTES
        read += gathered * (of_list + there) + rows * there
        written += gathered * there + rows * there
    if form.crosses:
        for _, _, rows in served(on, counts):
            read, written = read + rows * back, written + rows * back
    return np.array((read, written))


__all__ = ["hbm_bytes", "matmul_flops", "matrix_bytes", "served"]
