"""A variant whose keys and values are made of latents: MLA, expanded or absorbed.

A query's features are `nope`, which meet what `w_k` makes of a latent, and `rope`, which meet the
token's rotary key. Both forms are the same attention:

    expanded    q · (w_k c, r)          over w_v c, of every head
    absorbed    (w_kᵀ q, q_rope) · (c, r)   over c, of one KV head; then w_v
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from emu import Device, Sheet
from emu.trainium import TRN3, with_cores
from emu.trainium.datasheets import NeuronCoreSheet
from emu.wse import WSE3
from kernels.attention.check import (
    ROUNDING,
    Forms,
    Report,
    on_machines,
)
from kernels.attention.clock import VariantTime
from kernels.attention.explain import Explanation, explain
from kernels.attention.latent_decode import LatentDecode, latent_decode
from kernels.attention.on_pe import DecodeSizes
from kernels.attention.prefill import by_sequence, by_token, context_attention
from kernels.attention.prefill_time import PrefillTime, time_of
from kernels.attention.variant import Variant
from kernels.refusal import refuse
from kernels.tokens.placement import PLACEMENTS
from kernels.trainium.context.absorbed_attention import AbsorbedAttention
from kernels.trainium.context.latent_attention import LatentAttention
from kernels.trainium.context.latent_program import sharing_heads
from kernels.trainium.gemm.mx_pack import MxFormats
from kernels.trainium.tiles import PARTITIONS, split

Form: TypeAlias = Literal["expanded", "absorbed"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSizes:
    """Sizes of attention to latents.

    Attributes:
      batch, heads, queries, keys: of attention.
      nope, rope: features of a query that meet latents, and that meet rotary keys.
      rank: features of a latent.
      value_dim: of an output.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    nope: int
    rope: int
    rank: int
    value_dim: int

    @classmethod
    def of(
        cls, name: str, q: Any, latent: Any, rotary: Any, w_k: Any, w_v: Any
    ) -> "LatentSizes":
        """Of operands.

        Raises:
          LimitExceeded: shapes that do not fit together.
        """
        operands = (q, latent, rotary, w_k, w_v)
        shapes = [tuple(np.shape(x)) for x in operands]
        if [len(x) for x in shapes] == [4, 3, 3, 3, 3]:
            batch, heads, queries, features = shapes[0]
            _, keys, rank = shapes[1]
            rope, nope, value_dim = shapes[2][-1], shapes[3][-1], shapes[4][-1]
            wanted = [
                (batch, heads, queries, nope + rope),
                (batch, keys, rank),
                (batch, keys, rope),
                (rank, heads, nope),
                (rank, heads, value_dim),
            ]
            if shapes == wanted:
                return cls(
                    batch=batch,
                    heads=heads,
                    queries=queries,
                    keys=keys,
                    nope=nope,
                    rope=rope,
                    rank=rank,
                    value_dim=value_dim,
                )
        refuse(
            f"{name}: q, latent, rotary, w_k and w_v are {shapes}, must be [batch, heads, queries, "
            "nope + rope], [batch, keys, rank], [batch, keys, rope], [rank, heads, nope] and "
            "[rank, heads, value_dim]"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LatentVariant:
    """A variant over latents.

    Attributes:
      name: of the variant.
      variant: of the scores, which are of expanded keys in both forms; its scale is by the features
        of a query, nope + rope, unless it has its own.
      form: in which machines compute it.
    """

    name: str
    variant: Variant
    form: Form

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            refuse(f"{self.name}: form is {self.form!r}, must be one of {FORMS}")

    # --- values ---

    def dense(
        self,
        q: Any,
        latent: Any,
        rotary: Any,
        w_k: Any,
        w_v: Any,
        *,
        q_offset: int = 0,
        dtype: DTypeLike = "float64",
    ) -> tuple[jax.Array, jax.Array | None]:
        """The oracle, of both forms: keys and values of every head, then dense attention.

        Args:
          q: `[batch, heads, queries, nope + rope]`.
          latent: `[batch, keys, rank]`.
          rotary: `[batch, keys, rope]`, of all heads.
          w_k: `[rank, heads, nope]`.
          w_v: `[rank, heads, value_dim]`.
          q_offset: position of the first query.
          dtype: of the computation and of the results.

        Returns:
          `[batch, heads, queries, value_dim]` and the log-sum-exp, `[batch, heads, queries]`.
        """
        sizes = LatentSizes.of(self.name, q, latent, rotary, w_k, w_v)
        with jax.enable_x64(jnp.dtype(dtype).itemsize == 8):
            latents, turned, of_keys, of_values = (
                jnp.asarray(x).astype(dtype) for x in (latent, rotary, w_k, w_v)
            )
            exact = jax.lax.Precision.HIGHEST
            expand = "bkr,rhn->bhkn"
            keys = jnp.einsum(expand, latents, of_keys, precision=exact)
            values = jnp.einsum(expand, latents, of_values, precision=exact)
            shape = (sizes.batch, sizes.heads, sizes.keys, sizes.rope)
            of_all = jnp.broadcast_to(turned[:, None], shape)
            keys = jnp.concatenate([keys, of_all], axis=-1)
            return self.variant.dense(q, keys, values, q_offset=q_offset, dtype=dtype)

    def prefill(
        self,
        q: Any,
        latent: Any,
        rotary: Any,
        w_k: Any,
        w_v: Any,
        **options: Any,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Context-parallel prefill on a mesh of emulated Trainium chips; latents cross its links.

        Args:
          q, latent, rotary, w_k, w_v: as for `dense`.
          options: `chips`, `placement`, `scheme`, `cores` and others, as for `Variant.prefill`.
            Cores of a chip share the heads, and each has the latents.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        sizes = LatentSizes.of(self.name, q, latent, rotary, w_k, w_v)
        queries = jnp.asarray(q)
        options.setdefault("dtype", queries.dtype)
        program = self.program(sizes, **options)
        missing = program.attention.tokens - sizes.keys

        def of_sequences(x: Any) -> jax.Array:
            """`[batch, tokens, features]` to `[tokens, batch, features]`."""
            turned = jnp.asarray(x).swapaxes(0, 1)
            return jnp.pad(turned, ((0, missing), (0, 0), (0, 0)))

        latents, turned = of_sequences(latent), of_sequences(rotary)
        out, sums = program.run(by_token(queries), latents, turned, w_k, w_v)
        lse = None if sums is None else by_sequence(sums, sizes.batch)
        return by_sequence(out, sizes.batch), lse

    def decode(
        self,
        q: Any,
        latent: Any,
        rotary: Any,
        w_k: Any,
        w_v: Any,
        *,
        rows: int | None = None,
        parts: int | None = None,
        position: int | None = None,
        device: Device | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Attention of the newest query on a region of the emulated wafer.

        It is absorbed in both forms, as systems decode. Expanded, keys and values of every head
        would have to lie on the wafer, of DeepSeek-V3's 128 heads 40,960 elements a token where a
        latent and its rotary key are 576, or be made of all latents anew for every token.

        Args:
          q: `[batch, heads, 1, nope + rope]`.
          latent, rotary, w_k, w_v: as for `dense`; a latent is stored once, for keys and values.
          rows, parts, position, device: as for `Variant.decode`.

        Returns:
          Output and log-sum-exp, as `dense`.
        """
        sizes = LatentSizes.of(self.name, q, latent, rotary, w_k, w_v)
        plan = self._decode_plan(
            sizes,
            np.dtype(latent.dtype).name,
            device=WSE3.at() if device is None else device,
            rows=rows,
            parts=parts,
            position=position,
        )
        return plan.run(q, latent, rotary, w_k, w_v)

    def _decode_plan(
        self,
        sizes: LatentSizes,
        dtype: str,
        *,
        position: int | None = None,
        **region: Any,
    ) -> LatentDecode:
        self._check_absorbs("decode, which is absorbed")
        of_latents = DecodeSizes(
            batch=sizes.batch,
            heads=sizes.heads,
            kv_heads=1,
            head_dim=sizes.rank + sizes.rope,
            value_dim=sizes.rank,
            context=sizes.keys,
            position=position,
            scale=self._scale(sizes),
            dtype=dtype,
            values_are_keys=True,
        )
        return latent_decode(
            self.variant.reading,
            of_latents,
            nope=sizes.nope,
            value_dim=sizes.value_dim,
            **region,
        )

    def _check_absorbs(self, what: str) -> None:
        """Refuses a last step that is not of the values as it would be of means of latents."""
        fold = self.variant.reading.fold
        if fold is not None and not fold.scales_values:
            refuse(
                f"{self.name}: {what}, takes the last step of {fold.name} before values are made "
                "of latents; it must be the values times or over one number for all features of a "
                "query. Expanded, `dense` and `prefill` take any"
            )

    def _scale(self, sizes: LatentSizes) -> float:
        scale = self.variant.scale
        return (sizes.nope + sizes.rope) ** -0.5 if scale is None else scale

    # --- programs ---

    def program(
        self, sizes: LatentSizes, *, mx: MxFormats | None = None, **options: Any
    ) -> LatentAttention | AbsorbedAttention:
        """The prefill's program, to be run or timed.

        Args:
          sizes: of attention.
          mx: what the products that make keys and values of latents have their operands in, where
            they are in MX.
          options: of `kernels.attention.prefill.context_attention`.
        """
        count, features = split(sizes.rank, PARTITIONS)
        if sizes.rank % count:
            refuse(
                f"{self.name}: rank is {sizes.rank}, must be a multiple of {count}, the parts of "
                f"at most {PARTITIONS} features that it takes"
            )
        key_dim = sizes.nope + sizes.rope
        common: dict[str, Any] = dict(
            q=(sizes.batch, sizes.heads, sizes.queries, key_dim),
            scale=self._scale(sizes),
            **options,
        )
        reading = self.variant.reading
        if self.form == "expanded":
            attention = context_attention(
                reading,
                k=(sizes.batch, sizes.heads, sizes.keys, key_dim),
                parts=(sizes.nope, sizes.rope),
                value_dim=sizes.value_dim,
                even_rows=mx is not None,
                **common,
            )
            return LatentAttention(attention=attention, latent=sizes.rank, mx=mx)
        if mx is not None:
            refuse(
                f"{self.name}: absorbed, no keys and values are made of latents whose products "
                "could be in MX; take the expanded form"
            )
        self._check_absorbs("prefill, absorbed")
        whole = sizes.rank + sizes.rope
        common["q"] = (sizes.batch, sizes.heads, sizes.queries, whole)
        by_head = context_attention(
            reading,
            k=(sizes.batch, sizes.heads, sizes.keys, whole),
            parts=(*[features] * count, sizes.rope),
            value_dim=sizes.rank,
            **common,
        )
        kv_heads = by_head.heads // sharing_heads(by_head)
        attention = dataclasses.replace(by_head, kv_heads=kv_heads)
        return AbsorbedAttention(
            attention=attention, nope=sizes.nope, value_dim=sizes.value_dim
        )

    def prefill_time(
        self, sizes: LatentSizes, *, chip: NeuronCoreSheet = TRN3, **options: Any
    ) -> PrefillTime:
        """The clock of the prefill.

        Args:
          sizes: of attention.
          chip: its datasheet.
          options: as for `program`.
        """
        program = self.program(sizes, **options)
        # Cores that run share their chip's HBM and links.
        on_chip = with_cores(chip, program.attention.cores)
        return time_of(program.attention, program.read_bands(on_chip))

    def time(
        self,
        *,
        tokens: int,
        heads: int,
        head_dim: int = 128,
        rope: int | None = None,
        rank: int | None = None,
        value_dim: int | None = None,
        kv_heads: int | None = None,
        batch: int = 1,
        keys: int | None = None,
        chips: int = 1,
        cores: int = 1,
        dtype: str = "bfloat16",
        chip: NeuronCoreSheet = TRN3,
        wafer: Sheet = WSE3,
        rows: int | None = None,
        parts: int | None = None,
        **options: Any,
    ) -> VariantTime:
        """The clock of both machines, from sizes alone.

        Args:
          tokens, heads, batch, keys, chips, cores, dtype, chip, wafer, rows, parts: as for
            `Variant.time`.
          head_dim: features of a query that meet latents.
          rope: its others; None: half as many, as DeepSeek-V2 and V3 have.
          rank: features of a latent; None: four times `head_dim`, likewise.
          value_dim: None: `head_dim`.
          kv_heads: None, or as many as heads: latents are of all of them.
          options: of the prefill, as for `Variant.time`.
        """
        if kv_heads not in (None, heads):
            refuse(
                f"{self.name}: kv_heads is {kv_heads}, must be None or {heads}, as many as heads"
            )
        sizes = LatentSizes(
            batch=batch,
            heads=heads,
            queries=tokens,
            keys=tokens if keys is None else keys,
            nope=head_dim,
            rope=head_dim // 2 if rope is None else rope,
            rank=4 * head_dim if rank is None else rank,
            value_dim=head_dim if value_dim is None else value_dim,
        )
        of_mesh = dict(chips=chips, cores=cores, dtype=jnp.dtype(dtype))
        prefill = self.prefill_time(sizes, chip=chip, **of_mesh, **options)
        plan = self._decode_plan(
            sizes, dtype, device=wafer.at(), rows=rows, parts=parts
        )
        return VariantTime(self.name, prefill, plan.time(wafer))

    def explain(
        self, *, tokens: int, heads: int = 1, head_dim: int = 128, **sizes: Any
    ) -> Explanation:
        """Its live tiles, and what is done to every score; see `Variant.explain`.

        Args:
          tokens, heads, head_dim: of attention.
          sizes: `chips` and more, as for `time`.
        """
        clock = self.time(tokens=tokens, heads=heads, head_dim=head_dim, **sizes)
        of_latents = ("rope", "rank", "value_dim", "kv_heads")
        options = {key: x for key, x in sizes.items() if key not in of_latents}
        return explain(
            self.name,
            self.variant.reading,
            clock,
            tokens=tokens,
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim,
            **options,
        )

    # --- do they agree? ---

    def check(
        self,
        *,
        tokens: int = 24,
        heads: int = 4,
        nope: int = 8,
        rope: int = 4,
        rank: int = 16,
        value_dim: int = 8,
        batch: int = 2,
        chips: Sequence[int] = (1, 2, 4),
        placements: Sequence[str] = PLACEMENTS,
        seed: int = 0,
    ) -> Report:
        """Compares all forms on random operands.

        Args:
          tokens, heads, batch: of attention.
          nope, rope, rank, value_dim: see `LatentSizes`.
          chips: sizes of the mesh.
          placements: of tokens on more than one chip.
          seed: of the operands.
        """
        rng = np.random.default_rng(seed)
        shapes = (
            (batch, heads, tokens, nope + rope),
            (batch, tokens, rank),
            (batch, tokens, rope),
            (rank, heads, nope),
            (rank, heads, value_dim),
        )
        operands = [rng.standard_normal(x).astype(np.float32) for x in shapes]
        for weights in operands[3:]:
            weights /= np.float32(rank**0.5)
        out, _ = self.dense(*operands)
        allowed = ROUNDING * max(1.0, float(np.abs(out).max()))
        forms = Forms(self.dense, self.prefill, self.decode)
        found = on_machines(forms, operands, tokens - 1, allowed, chips, placements)
        return Report(self.name, tuple(found))

    def __repr__(self) -> str:
        return f"<attention {self.name}>"


__all__ = ["FORMS", "Form", "LatentSizes", "LatentVariant"]
