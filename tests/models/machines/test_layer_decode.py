"""Layers of published models in decode at full size: FLOPs and bytes of their PEs in closed form.

What is not a multiple of the PEs that share it is padded: of 2,880 features on 720 rows each has 4,
of 7,168 on 1,152 rows 7, as if there were 8,064.
"""

import dataclasses
import math
import time

import pytest

from emu.wse import WSE3
from emu.wse.placement.regions import DoesNotFit
from kernels.attention.decode_spent import SPENT_ON, decode_spent
from kernels.wse.decode.layer_plan import LayerStep
from models.configurations import published
from models.errors import ModelError
from models.machines.layer_decode import LayerDecode, product_flops
from models.precision import precision

BFLOAT16, FLOAT32 = 2, 4  # bytes


@dataclasses.dataclass(frozen=True)
class Matrix:
    """One PE's part of a matrix: inputs and outputs, and how many inputs follow each other.

    A turned one makes inputs of outputs: each input has scales, and the outputs follow each other.
    Of one that is cut, the inputs in order are all in one block.
    """

    inputs: int
    outputs: int
    in_order: int
    is_turned: bool = False
    is_cut: bool = False

    @property
    def products(self):
        return self.inputs * self.outputs

    def nbytes(self, held):
        """With scales: in MX one for as many inputs as every PE has in one block of 32."""
        alike = self.in_order if self.is_cut else math.gcd(self.in_order, 32)
        of_blocks = self.products // alike
        of_columns = self.inputs if self.is_turned else self.outputs
        return {
            "bfloat16": BFLOAT16 * self.products,
            "fp8": self.products + FLOAT32 * of_columns,
            "mxfp8": self.products + of_blocks,
            # A word of two bytes has four codes.
            "mxfp4": 2 * self.inputs * up(self.outputs, 4) + of_blocks,
        }[held]


def up(elements, pes):
    """Elements of each of some PEs."""
    return math.ceil(elements / pes)


def whole(elements, share):
    """The next multiple of a share."""
    return up(elements, share) * share


def divisor(n, most):
    """The largest that is at most so large."""
    return max(d for d in range(1, most + 1) if n % d == 0)


def ends_with_blocks(elements, each, pes):
    """Whether slices end with blocks of 32: if as many PEs hold them so."""
    whole_blocks, rest = divmod(elements, 32)
    return each < 32 and whole_blocks * up(32, each) + up(rest, each) <= pes


class ClosedForm:
    """One PE's matrices, and what else of its layer is worked out by hand."""

    def __init__(self, decode):
        layer = decode.placed.map
        self.config, self.context = decode.config, decode.context
        self.form = decode.config.forms[decode.layer]
        self.held = decode.precision.weights.name
        self.cache_held = decode.precision.cache.name
        self.experts_held = decode.precision.experts.name
        self.rows, self.groups, self.parts = layer.rows, layer.kv_heads, layer.parts
        self.cols = self.groups * self.parts
        self.depth = up(self.config.hidden_size, self.rows)
        self.heads = up(self.config.num_attention_heads, self.groups)
        if self.form.experts is not None:
            self.experts = layer.form.mlp.on(layer.region)

    # --- attention ---

    @property
    def of_attention(self):
        """Its projections."""
        latent = self.form.attention.latent
        if latent is None:
            of_head = self.config.head_dim // self.parts
            return [
                self.into((self.heads + 2) * of_head),
                # First elements of pairs, then the second ones.
                Matrix(self.heads * of_head, self.depth, of_head // 2),
            ]
        assert latent.query_rank is not None
        query = up(latent.query_rank, self.parts)
        cached = latent.cached_width // self.parts
        plain, turned, value = (
            self.of_a_row(features)
            for features in (
                latent.plain,
                latent.turned,
                latent.value_dim,
            )
        )
        of_latent = latent.rank // self.parts
        of_value = up(latent.value_dim, self.parts)
        return [
            self.into(query + cached),
            Matrix(query, plain + turned, query),
            Matrix(plain, of_latent, of_latent, is_turned=True),
            Matrix(of_latent, value, of_latent),
            Matrix(self.heads * of_value, self.depth, of_value),
        ]

    def of_a_row(self, features):
        """Features that a row makes of a head: as many rows as divide them share one."""
        assert self.heads <= self.rows
        return features // divisor(features, min(features, self.rows // self.heads))

    @property
    def attended(self):
        """Multiply-adds of all PEs with the cache, of the newest token."""
        attention = self.form.attention
        keys = min(self.context, attention.window or self.context)
        heads = self.groups * self.heads
        if attention.latent is not None:
            rank = attention.latent.rank
            return keys * heads * (attention.latent.cached_width + rank)
        return keys * heads * 2 * self.config.head_dim

    @property
    def cache_bytes(self):
        """A token's key and value, or its latent and turned key, of one PE in every slot."""
        slots = up(self.context, self.rows)
        # As many as columns of a group share the softmax of equal parts of.
        slots = whole(slots, up(self.context, self.rows * self.parts))
        latent = self.form.attention.latent
        if latent is not None:
            # Values are read at a stride of the slots, and 4 of 8 would be slow.
            slots += slots % 8 == 4
            features = latent.cached_width // self.parts
            if self.cache_held == "fp8":
                # With a scale of a token's latent, and one of its turned key.
                return slots * (features + 2 * FLOAT32)
            return BFLOAT16 * slots * features
        window = self.form.attention.window
        if window is not None:
            # What is gone through begins at the first key's slot, the later one of all rows.
            begin = up(max(0, self.context - window), self.rows)
            slots = max(slots, begin + up(window, self.rows))
        return BFLOAT16 * slots * 2 * (self.config.head_dim // self.parts)

    # --- MLP ---

    @property
    def of_mlp(self):
        """Its matrices, of a mixture those that a token meets."""
        if self.form.experts is None:
            width = up(self.config.intermediate_size, self.cols)
            share = up(self.config.intermediate_size, self.cols * self.rows)
            width = whole(width, share)
            return [
                self.into(2 * width),
                self.back(self.config.intermediate_size, width, self.depth),
            ]
        active = self.form.experts.routing.chosen + self.shared
        return [self.router, *active * self.of_expert]

    @property
    def router(self):
        return Matrix(self.depth, self.routed, self.depth)

    @property
    def of_expert(self):
        """Gate and up, and down; the latter's codes of 8 bits fill words of two."""
        width = up(self.form.experts.width, self.cols)
        is_wide = self.experts_held == "bfloat16"
        outputs = self.depth if is_wide else whole(self.depth, 2)
        return [
            self.into(2 * width),
            self.back(self.form.experts.width, width, outputs),
        ]

    def into(self, outputs):
        """From the residual stream, cut for rows."""
        hidden = self.config.hidden_size
        is_cut = ends_with_blocks(hidden, self.depth, self.rows)
        return Matrix(self.depth, outputs, self.depth, is_cut=is_cut)

    def back(self, hidden, width, outputs):
        """From a hidden vector, cut for columns."""
        is_cut = ends_with_blocks(hidden, width, self.cols)
        return Matrix(width, outputs, width, is_cut=is_cut)

    @property
    def shared(self):
        """Experts that every token meets."""
        return self.form.experts.shared_width // self.form.experts.width

    @property
    def routed(self):
        """Experts whose logits a PE makes: those of its column among a block's."""
        high, wide = self.experts.block
        own = up(self.form.experts.count, wide)
        return whole(own, up(own, high))

    # --- sums ---

    @property
    def product_flops(self):
        """Of all PEs."""
        matrices = [*self.of_attention, *self.of_mlp]
        flops = 2 * self.rows * self.cols * sum(x.products for x in matrices)
        experts = self.form.experts
        if experts is not None and experts.is_biased:
            # The first column adds chosen experts' biases, each times its weight.
            flops += 2 * self.rows * experts.routing.chosen * self.depth
        return flops + 2 * self.attended

    @property
    def weight_bytes(self):
        """Of one PE."""
        attention, experts = self.form.attention, self.form.experts
        found = sum(x.nbytes(self.held) for x in self.of_attention)
        elements = 2 * self.depth  # norms
        if attention.latent is not None:
            elements += up(attention.latent.query_rank, self.parts)
            elements += attention.latent.rank // self.parts
        if attention.is_biased:
            elements += self.of_attention[0].outputs
        if attention.output_is_biased:
            elements += self.depth
        if experts is None:
            found += sum(x.nbytes(self.held) for x in self.of_mlp)
            return found + BFLOAT16 * elements
        elements += self.router.products
        tiles = experts.count + self.shared
        found += tiles * sum(x.nbytes(self.experts_held) for x in self.of_expert)
        if self.experts_held == "fp8":
            # Scales of down are dealt over the columns of a router's block.
            _, wide = self.experts.block
            held_there = up(tiles, wide) - tiles
            found += FLOAT32 * self.of_expert[1].outputs * held_there
        biases = experts.routing.selection_bias + experts.is_biased
        found += FLOAT32 * biases * self.routed
        if experts.is_biased:
            # Of gate and up those of the features that a row activates.
            elements += tiles * (2 * self.experts.share + self.depth)
        return found + BFLOAT16 * elements


BF16, MXFP4, MXFP8 = "bfloat16", "weights=mxfp4", "weights=mxfp8"
CASES = [
    ("gpt-oss-120b", 0, BF16, 8_192),  # a window
    ("gpt-oss-120b", 1, "experts=mxfp4", 8_192),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("gpt-oss-120b", 0, BF16, 131_072),
            ("gpt-oss-120b", 1, BF16, 8_192),
            ("gpt-oss-120b", 1, BF16, 131_072),
            ("gpt-oss-120b", 1, MXFP4, 8_192),
            ("gpt-oss-120b", 1, "weights=fp8", 8_192),
            ("gpt-oss-120b", 0, MXFP4, 131_072),
            ("deepseek-v3", 0, BF16, 8_192),  # an MLP
            ("deepseek-v3", 60, BF16, 8_192),
            ("deepseek-v3", 60, BF16, 131_072),
            ("deepseek-v3", 0, MXFP8, 8_192),
            ("deepseek-v3", 60, MXFP8, 8_192),
            ("deepseek-v3", 60, "weights=fp8", 8_192),
            ("kimi-k2", 60, MXFP8, 8_192),
            ("deepseek-v3", 60, "weights=mxfp8,cache=fp8", 8_192),
            ("deepseek-v3", 60, "cache=fp8", 131_072),
            ("kimi-k2", 60, MXFP4, 8_192),
            ("kimi-k2", 60, MXFP8, 131_072),
            ("kimi-k2", 60, "weights=fp8", 131_072),
            ("kimi-k2", 60, MXFP4, 131_072),
            ("llama-3.1-8b", 0, BF16, 8_192),
            ("llama-3.1-8b", 0, MXFP8, 8_192),
        )
    ),
]


@pytest.mark.parametrize(("name", "layer", "plan", "context"), CASES)
def test_layers_at_full_size(name, layer, plan, context):
    """Region, bytes and cycles from sizes alone, in 10 CPU seconds; twice as many when busy."""
    start = time.process_time()
    config = published(name).config
    decode = LayerDecode(config, layer, context, precision(plan))
    placed = decode.placed
    reading = LayerStep(placed, context - 1).read(WSE3.at())
    assert time.process_time() - start < 20
    closed = ClosedForm(decode)
    assert product_flops(reading) == closed.product_flops
    assert placed.bytes["weights"] == closed.weight_bytes
    assert placed.bytes["cache"] == closed.cache_bytes
    assert sum(placed.bytes.values()) <= WSE3.at().sram_bytes
    assert closed.rows <= WSE3.at().grid_height
    assert closed.cols <= WSE3.at().grid_width


def test_bands_and_work():
    """The slower the machine, the later; the PE that works most waits for others besides."""
    decode = LayerDecode(published("llama-3.1-8b").config, 0, 512)
    clock = decode.time()
    low, nominal, high = (clock.cycles[band] for band in ("low", "nominal", "high"))
    assert low < nominal < high
    assert 0 < clock.work_cycles < nominal
    assert 0 < clock.product_flops < clock.flops
    assert clock.seconds["nominal"] == pytest.approx(nominal / WSE3.at().tick_hz)
    step = LayerStep(decode.placed, 511)
    spent = decode_spent(step, step.read(WSE3.at()), WSE3.at())
    assert set(spent) == set(SPENT_ON) and sum(spent.values()) == nominal


def test_experts_of_kimi_k2_in_two_bytes_do_not_fit_a_wafer():
    """385 slices of 7 x 3 numbers, three of each, are 48,510 of a PE's 49,152 bytes beside code."""
    decode = LayerDecode(published("kimi-k2").config, 60, 8_192)
    with pytest.raises(DoesNotFit, match="no context would do: its weights"):
        decode.time()


def test_what_a_wafer_does_not_decode_is_refused():
    config = published("gpt-oss-120b").config
    with pytest.raises(ModelError, match="layer 36, must be 0 to 35"):
        LayerDecode(config, 36, 8_192)
